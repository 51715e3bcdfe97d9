// BackgroundFill: what nobody has touched yet, read meanwhile; around the latest faults first.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.hpp"
#include "checkpoint/aligned_buffer.hpp"
#include "checkpoint/lazy_fill.hpp"
#include "postcopy/push_order.hpp"

namespace migrate::checkpoint {

class BackgroundFill {
 public:
  /// `on_failure` is called by any of the threads; they end then.
  BackgroundFill(LazyFill& fill, std::function<void(Error)> on_failure)
      : fill_(fill), on_failure_(std::move(on_failure)) {}
  ~BackgroundFill() { stop(); }
  BackgroundFill(const BackgroundFill&) = delete;
  BackgroundFill& operator=(const BackgroundFill&) = delete;

  /// Once. Fewer threads where the host gives no more; an error without any.
  Status start(unsigned threads) MIGRATE_EXCLUDES(mutex_);
  /// Somebody waited for these pages and is brought them: what lies around comes next. Any thread,
  /// also before start().
  void fault(std::uint16_t region, std::uint64_t first, std::uint64_t count)
      MIGRATE_EXCLUDES(mutex_);
  /// Ends the threads.
  void stop() MIGRATE_EXCLUDES(mutex_);
  /// Processor time of the threads, which have ended.
  [[nodiscard]] std::chrono::nanoseconds cpu() MIGRATE_EXCLUDES(mutex_);

 private:
  /// Memory of one of the threads.
  struct Room {
    std::vector<FoundPage> found;
    AlignedBuffer content;
  };
  void work() MIGRATE_EXCLUDES(mutex_);
  Status work_batches() MIGRATE_EXCLUDES(mutex_);
  Status bring(ImageReader& reader, postcopy::LazyRange& range, postcopy::PushOrder::Run run,
               Room& room);
  /// True when there is nothing more to do.
  bool next(postcopy::PushOrder::Batch& batch) MIGRATE_EXCLUDES(mutex_);
  void let_faults_by() MIGRATE_EXCLUDES(mutex_);

  LazyFill& fill_;
  const std::function<void(Error)> on_failure_;
  std::vector<std::thread> threads_;

  Mutex mutex_;
  CondVar stopped_;
  bool stop_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::unique_ptr<postcopy::PushOrder> order_ MIGRATE_GUARDED_BY(mutex_);
  std::chrono::nanoseconds cpu_ MIGRATE_GUARDED_BY(mutex_){0};
};

}  // namespace migrate::checkpoint
