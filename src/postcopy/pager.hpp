// Pager: what becomes of a fault, and of a page that has come. Knows who waits for what, and ends
// all waiting when it is given up.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/mutex.hpp"
#include "memory/userfault.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"
#include "postcopy/fault_times.hpp"
#include "postcopy/lazy_memory.hpp"
#include "wire/messages.hpp"

namespace migrate::postcopy {

using SteadyClock = std::chrono::steady_clock;

/// Any thread, but miss().
class Pager {
 public:
  explicit Pager(const LazyMemory& memory) : memory_(memory) {}

  /// See LazyTarget.
  Status miss(const PageBitmap& set);
  /// All pages of all ranges. Before there is any other thread; takes no time by page, but for a
  /// few bits each.
  Status miss_all();

  /// Serves a fault that needs nobody; the others wait from `now` on, and what they wait for is
  /// added to `demands` unless somebody else's fault has been there before. An error: there is no
  /// memory for a page of zeros, and who waits for it is to be woken some time later.
  Status fault(const PageFault& fault, SteadyClock::time_point now,
               std::vector<wire::Demand::Pages>& demands);
  /// What is waited for and has not come, whole granules.
  [[nodiscard]] std::vector<wire::Demand::Pages> waited_for();
  /// Since when the longest wait lasts.
  [[nodiscard]] std::optional<SteadyClock::time_point> oldest_wait();

  /// Whether this caller is the one to put the granule in place, and nobody has.
  [[nodiscard]] bool claim(LazyRange& range, std::uint64_t first);
  /// A claim that came to nothing.
  void unclaim(LazyRange& range, std::uint64_t first, std::uint64_t count);
  /// Pages (whole granules) that were claimed are in place, and so are their hashes. True when no
  /// page is missing any more.
  bool put_in_place(LazyRange& range, std::uint64_t first, std::uint64_t count);
  /// The same for pages that were claimed and need not be filled: who touches one, now or later,
  /// gets zeros.
  bool leave_as_zeros(LazyRange& range, std::uint64_t first, std::uint64_t count);
  /// A page came with another content than its hash. False once that has happened too often.
  [[nodiscard]] bool ask_again(const LazyRange& range, std::uint64_t page);

  /// Who waits gets zeros, now and later; nothing happens once the guest may wait.
  void give_up();
  void guest_may_wait();
  [[nodiscard]] bool given_up() const { return given_up_.load(); }
  [[nodiscard]] bool may_wait() const { return may_wait_.load(); }

  [[nodiscard]] std::uint64_t missing_pages() const { return missing_.load(); }
  [[nodiscard]] std::uint64_t local_faults() const { return local_faults_.load(); }
  [[nodiscard]] FaultTimes times();

 private:
  struct Wait {
    LazyRange* range;
    std::uint64_t first;  ///< Of the granule.
    int thread;           ///< 0: counted already.
    bool begins;          ///< Nobody waited for the granule before.
    SteadyClock::time_point since;
  };
  Status fill_hole(LazyRange& range, std::uint64_t first);
  Status fill_with_zeros(LazyRange& range, std::uint64_t first);
  /// True when it is to be demanded.
  bool begin_wait(LazyRange& range, std::uint64_t first, int thread, SteadyClock::time_point now)
      MIGRATE_REQUIRES(mutex_);
  void end_waits(LazyRange& range, std::uint64_t first);

  const LazyMemory& memory_;
  std::atomic<std::uint64_t> missing_{0};
  std::atomic<std::uint64_t> local_faults_{0};
  std::atomic<bool> given_up_{false};
  std::atomic<bool> may_wait_{false};

  Mutex holes_;  // A page is either filled as a hole or made missing.

  Mutex mutex_;
  std::vector<Wait> waits_ MIGRATE_GUARDED_BY(mutex_);  // As many as threads fault.
  FaultTimes times_ MIGRATE_GUARDED_BY(mutex_);
  std::unordered_map<std::uint64_t, unsigned> wrong_ MIGRATE_GUARDED_BY(mutex_);  // By address.
};

}  // namespace migrate::postcopy
