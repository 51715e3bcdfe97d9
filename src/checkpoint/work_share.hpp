// WorkShare: numbered pieces of work for several threads; the first that fails in their order is
// what is told.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>

#include "base/mutex.hpp"
#include "base/thread_annotations.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// Any thread.
class WorkShare {
 public:
  /// Pieces 0 to count - 1.
  explicit WorkShare(std::size_t count) : end_(count) {}
  /// The next piece; none after the last, or after one that failed.
  std::optional<std::size_t> take();
  /// Those before it are still done, so which error is told does not depend on the threads' pace.
  void fail(std::size_t piece, Error error);
  Status outcome() const;

  /// Runs `worker` on `threads` threads (0: one a processor), this one among them, each with pieces
  /// of its own; what a worker returns before it took any counts as the first piece's.
  static Status run(std::size_t count, unsigned threads,
                    const std::function<Status(WorkShare&)>& worker);

 private:
  mutable Mutex mutex_;
  std::size_t next_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::size_t end_ MIGRATE_GUARDED_BY(mutex_);
  std::optional<Error> error_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate::checkpoint
