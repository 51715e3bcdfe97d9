// Prefetch: a working set put in place ahead of the guest, by several threads.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/mutex.hpp"
#include "checkpoint/lazy_fill.hpp"
#include "checkpoint/working_set.hpp"

namespace migrate::checkpoint {

class Prefetch {
 public:
  Prefetch(LazyFill& fill, WorkingSet set) : fill_(fill), set_(std::move(set)) {}
  ~Prefetch() { stop(); }
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  Status start(unsigned threads);
  /// Until all is in place, or cannot be; false when that has not come by then.
  bool wait_until(std::chrono::steady_clock::time_point deadline) MIGRATE_EXCLUDES(mutex_);
  /// Ends the threads.
  void stop() MIGRATE_EXCLUDES(mutex_);
  /// Why some of it was not used. Once.
  [[nodiscard]] std::optional<Error> take_failure() MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] std::chrono::nanoseconds cpu() MIGRATE_EXCLUDES(mutex_);

 private:
  void work() MIGRATE_EXCLUDES(mutex_);
  Status work_pieces();
  Status bring(std::size_t first, std::size_t count, std::vector<std::byte>& content,
               std::vector<std::byte>& granule);
  Status check(std::span<const WorkingSet::Entry> entries) const;
  Status bring_granule(postcopy::LazyRange& range, std::uint64_t page,
                       std::vector<std::byte>& granule);

  LazyFill& fill_;
  const WorkingSet set_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;

  Mutex mutex_;
  CondVar ended_;
  std::size_t working_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::optional<Error> failure_ MIGRATE_GUARDED_BY(mutex_);
  std::chrono::nanoseconds cpu_ MIGRATE_GUARDED_BY(mutex_){0};
};

}  // namespace migrate::checkpoint
