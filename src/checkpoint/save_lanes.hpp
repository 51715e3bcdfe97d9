// SaveLanes: threads that save pages, a lane of the image each.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.hpp"
#include "checkpoint/image_writer.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

class SaveLanes {
 public:
  struct Work {
    /// Adds pages to the lane, of which this one is the `number`-th, until none are left.
    std::function<Status(ImageWriter::Lane& lane, std::size_t number)> save;
    /// Called once, for the first that fails: ends what the others do.
    std::function<void(const Error&)> failed;
  };
  /// Makes `count` lanes; no thread runs yet. `writer` must outlive this.
  static Result<std::unique_ptr<SaveLanes>> create(ImageWriter& writer, std::size_t count);
  ~SaveLanes();  ///< Waits for the threads, as finish().

  Status start(Work work);
  /// Every lane has added its pages, or one has failed; false at `deadline`.
  bool wait_saved(std::chrono::steady_clock::time_point deadline) MIGRATE_EXCLUDES(mutex_);
  /// Why the first failed, if one has.
  [[nodiscard]] Status failure() const MIGRATE_EXCLUDES(mutex_);
  /// Waits until all is written; the threads have ended, and the lanes are gone.
  Status finish();
  /// After finish().
  [[nodiscard]] std::chrono::nanoseconds cpu() const { return cpu_; }

 private:
  SaveLanes() = default;
  void run(std::size_t number) MIGRATE_EXCLUDES(mutex_);
  void note(const Status& status) MIGRATE_EXCLUDES(mutex_);

  struct One {
    std::unique_ptr<ImageWriter::Lane> lane;
    std::chrono::nanoseconds cpu{0};
    std::thread thread;
  };
  std::deque<One> lanes_;
  Work work_;
  std::chrono::nanoseconds cpu_{0};
  mutable Mutex mutex_;
  CondVar saved_;
  std::size_t left_ MIGRATE_GUARDED_BY(mutex_) = 0;  ///< That still add pages.
  Status failure_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate::checkpoint
