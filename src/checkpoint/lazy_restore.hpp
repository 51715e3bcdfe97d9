// LazyRestore: a guest's memory while it is read from an image. A guest that touches what is
// missing waits for it; the rest is read meanwhile.
//
// The life of one: create() before the guest's state is loaded, let_guest_wait() after, started(),
// then record() and fill_rest() and wait(); or serve_on().
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/event_fd.hpp"
#include "base/mutex.hpp"
#include "checkpoint/background_fill.hpp"
#include "checkpoint/lazy_fill.hpp"
#include "checkpoint/prefetch.hpp"
#include "checkpoint/working_set.hpp"
#include "migrate/memory.hpp"
#include "postcopy/fault_threads.hpp"

namespace migrate::checkpoint {

/// What it did. Times in microseconds of wall time.
struct LazyFigures {
  std::uint64_t faults = 0, local_faults = 0;
  double fault_p50_us = 0, fault_p99_us = 0, fault_max_us = 0;
  std::vector<std::pair<int, double>> stall_us_by_thread;  ///< By gettid.
  std::uint64_t demand = 0, prefetched = 0, background = 0;
  std::uint64_t file_bytes = 0;
  std::chrono::nanoseconds cpu{0};
};

/// All methods are the coordinator's unless said otherwise.
class LazyRestore {
 public:
  struct Options {
    bool record = false;  ///< Which pages are touched is noted, and nothing else is brought.
    std::optional<WorkingSet> prefetch;
    unsigned threads = 1;  ///< For the rest of memory, and for a working set.
  };
  /// Registers memory, starts the fault threads and, where there is one, the working set's.
  static Result<std::unique_ptr<LazyRestore>> create(std::shared_ptr<const ImageChain> chain,
                                                     PageSink& pages, Options options);
  /// Ends all threads and takes the registration back. Whoever waits gets zeros, unless the guest
  /// has started and something is missing: memory is made inaccessible then, so that it gets an
  /// error.
  ~LazyRestore();

  /// Until this is called a page that cannot be read ends all waiting, by zeros: whoever loads the
  /// state must come to an end. From then on waiting is for as long as it takes. The error of a
  /// page that could not be read.
  Status let_guest_wait() MIGRATE_EXCLUDES(mutex_);
  void started() { started_ = true; }

  /// Ends the noting.
  [[nodiscard]] std::vector<TouchedPage> take_touched() MIGRATE_EXCLUDES(mutex_);
  /// From here on what nobody touches is read, too.
  Status fill_rest();

  enum class State : std::uint8_t { kFollows, kComplete, kLost };
  /// What became of memory by `deadline`, or when somebody woke().
  State wait_until(std::chrono::steady_clock::time_point deadline) MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] Prefetch* prefetch() { return prefetch_.get(); }
  /// Why a page could not be read.
  [[nodiscard]] std::optional<Error> loss() MIGRATE_EXCLUDES(mutex_);
  /// From here on `on_loss` is called once, by any thread, when a page cannot be read.
  void serve_on(std::function<void(const Error&)> on_loss) MIGRATE_EXCLUDES(mutex_);

  /// Any thread: ends a wait, and tries of loading that fail.
  void wake() noexcept MIGRATE_EXCLUDES(mutex_);
  /// Any thread: the restore was given up before the start. Whoever waits gets zeros.
  void give_up() noexcept MIGRATE_EXCLUDES(mutex_);

  /// Ends background, working set and noting; what waits or is touched is still served.
  void stop_reading_ahead();
  /// Ends all threads: figures are final.
  void stop();
  [[nodiscard]] std::uint64_t missing_pages() const { return fill_->pager().missing_pages(); }
  [[nodiscard]] LazyFigures figures();

 private:
  explicit LazyRestore(EventFd stop) : stop_(std::move(stop)) {}
  Status start(Options options);
  bool serve(std::span<const PageFault> faults);
  void bring(postcopy::LazyRange& range, std::uint64_t first) MIGRATE_EXCLUDES(mutex_);
  Status try_to_bring(postcopy::LazyRange& range, std::uint64_t first, bool alone);
  Status bring_around(ImageReader& reader, postcopy::LazyRange& range, std::uint64_t page,
                      bool alone);
  void lose(Error error) MIGRATE_EXCLUDES(mutex_);
  void note(std::uint16_t region, std::uint64_t first, std::uint64_t count)
      MIGRATE_EXCLUDES(mutex_);

  EventFd stop_;  // Set once nothing is tried again.
  std::unique_ptr<LazyFill> fill_;
  unsigned threads_ = 1;
  bool started_ = false;
  std::atomic<bool> recording_{false};
  std::atomic<std::int64_t> fault_cpu_ns_{0};

  Mutex mutex_;
  CondVar news_;
  bool woken_ MIGRATE_GUARDED_BY(mutex_) = false;
  bool complete_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<Error> loss_ MIGRATE_GUARDED_BY(mutex_);
  std::function<void(const Error&)> on_loss_ MIGRATE_GUARDED_BY(mutex_);
  std::vector<TouchedPage> touched_ MIGRATE_GUARDED_BY(mutex_);

  std::unique_ptr<Prefetch> prefetch_;
  std::unique_ptr<BackgroundFill> background_;
  std::unique_ptr<postcopy::FaultThreads> faults_;
};

}  // namespace migrate::checkpoint
