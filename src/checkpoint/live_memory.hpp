// LiveMemory: guest memory as it was at one instant, saved while the guest runs on and writes.
//
// All memory is write-protected while the guest still runs; what it writes meanwhile is let through
// and noted, and protected again. At the instant the guest stands, and only the little that was
// noted since is left to be protected. From then on a write waits until its page has been copied.
#pragma once

#include <atomic>
#include <bitset>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <span>
#include <vector>

#include "base/mutex.hpp"
#include "checkpoint/copy_pool.hpp"
#include "checkpoint/live_region.hpp"
#include "memory/userfault.hpp"
#include "migrate/trackers.hpp"
#include "postcopy/fault_threads.hpp"
#include "postcopy/fault_times.hpp"

namespace migrate::checkpoint {

struct LiveOptions {
  /// Copied together when one of them is about to be written: the copying has to be done anyhow,
  /// and a writer goes on without a fault for each. Measured: a fault is served in 4-17 us with 1,
  /// 17 with 16, 45 with 64, and the whole takes as long with 16 as with 1.
  std::uint64_t pages_together = 16;
  /// For copies on their way to the image. When it is full, writes of the guest wait.
  std::uint64_t copies_bytes = std::uint64_t{64} << 20;
};

/// Sees writes through the given mappings: by vCPUs, KVM, this process and the kernel for it. What
/// other mappings or pages pinned before the instant write is not held back.
///
/// One thread, but save() and fail(). Whatever happens, close() leaves memory writable for
/// everybody and nobody waiting.
class LiveMemory {
 public:
  /// Registers the memory of `regions`, which must stay mapped until close(). A region's place in
  /// the list is its number. kUnsupported, kBusy and kPermission with a remedy.
  static Result<std::unique_ptr<LiveMemory>> create(std::span<const MappedRegion> regions,
                                                    const LiveOptions& options = {});
  ~LiveMemory();

  /// Before the instant, while the guest runs: protects `pages`, a few MiB at a time. They are what
  /// is going to be saved, with all that is written from now on.
  Status arm(const PageBitmap& pages);
  /// Of what was armed: pages that read as zero, as was seen after arm(). Not saved, unless they
  /// are written before the instant.
  void leave_out(const PageBitmap& holes);
  /// Protects again what was written since it was last protected, and tells how many pages that is.
  Result<std::uint64_t> arm_written();

  /// The instant: the guest stands, and nobody writes its memory. `more` is saved as well.
  Status freeze(const PageBitmap& more);

  /// From freeze() on. What is saved; the rest of memory is not.
  [[nodiscard]] const PageBitmap& pages() const { return pages_; }
  /// Takes a page as it was at the instant; its content is the callee's during the call.
  using Add = std::function<Status(std::uint16_t region, std::uint64_t page, const std::byte*)>;
  /// Saves pages beside others that do the same, until none are left, which holds for all of them
  /// when all have returned.
  Status save(const Add& add);
  /// Ends save() everywhere with `error`; the guest's writes are let through. Any thread.
  void fail(Error error) noexcept MIGRATE_EXCLUDES(failure_mutex_);
  /// Why it failed, if it has.
  [[nodiscard]] Status failure() const MIGRATE_EXCLUDES(failure_mutex_);

  /// No save() runs any more.
  void close();

  struct Figures {
    std::uint64_t copied = 0;  ///< Pages, for writes that waited.
    postcopy::FaultTimes times;
    std::chrono::nanoseconds cpu{0};  ///< Of those who served them.
  };
  /// After close().
  [[nodiscard]] Figures figures() const MIGRATE_EXCLUDES(figures_mutex_);
  [[nodiscard]] std::uint64_t saved() const { return saved_.load(std::memory_order_relaxed); }

 private:
  struct Chunk {
    LiveRegion* region = nullptr;
    UnitRange units;
  };
  /// By place in a chunk or in what is copied together.
  using Claimed = std::bitset<LiveRegion::kUnitsTogetherMax>;

  LiveMemory(std::span<const MappedRegion> regions, std::span<const std::uint64_t> unit_pages,
             const LiveOptions& options, Userfault userfault);
  Status start(const LiveOptions& options);
  Status protect(const LiveRegion& region, UnitRange units);
  void want(LiveRegion& region);
  /// Protects what was written, and `more`, and has it saved.
  Result<std::uint64_t> protect_again(LiveRegion& region, const PageBitmap* more);

  // Fault threads, in live_faults.cc.
  void serve(const PageFault& fault, std::chrono::steady_clock::time_point heard);
  void note_write(LiveRegion& region, std::uint64_t unit);
  void save_before_write(LiveRegion& region, std::uint64_t unit,
                         std::chrono::steady_clock::time_point heard);
  std::uint64_t copy_pages(const LiveRegion& region, std::uint64_t unit, PageCopy& copy);
  [[nodiscard]] LiveRegion* region_at(std::uint64_t address);

  // Lanes, in live_lanes.cc.
  bool next_chunk(Chunk& chunk);
  Status save_chunk(const Chunk& chunk, std::span<std::byte> staging, const Add& add);
  Status save_copy(const PageCopy& copy, const Add& add);
  static std::uint64_t chunk_units(const LiveRegion& region);

  /// Lifts the protection of those of `units` that the caller has claimed or that nobody wants.
  Status open_up(const LiveRegion& region, UnitRange units, const Claimed& claimed);

  const std::uint64_t pages_together_;
  std::optional<Userfault> userfault_;  ///< Until close().
  std::deque<LiveRegion> regions_;
  std::vector<std::uint64_t> chunks_before_;  ///< Of earlier regions, by region; then of all.
  std::uint64_t copy_pages_ = 0;              ///< Room of a copy, and of a chunk.
  PageBitmap pages_;
  std::unique_ptr<CopyPool> pool_;

  /// Held shared while a write is let through before the instant; exclusively at the instant.
  std::shared_mutex gate_;
  bool frozen_ = false;  ///< Guarded by gate_.
  std::atomic<bool> stopped_{false};
  std::atomic<std::uint64_t> cursor_{0};  ///< The next chunk.
  std::atomic<std::uint64_t> saved_{0};

  mutable Mutex failure_mutex_;
  std::optional<Error> failure_ MIGRATE_GUARDED_BY(failure_mutex_);
  mutable Mutex figures_mutex_;
  Figures figures_ MIGRATE_GUARDED_BY(figures_mutex_);

  std::unique_ptr<postcopy::FaultThreads> faults_;
};

}  // namespace migrate::checkpoint
