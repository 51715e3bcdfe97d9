// LazyTarget: the target's memory while some of it is still at the source. A guest that touches
// what is missing waits, the page is demanded, and comes on the urgent lane; the rest is pushed on
// the bulk lanes meanwhile.
//
// The life of one: create(), miss() before and after the guest's pause, attach(), guest_may_wait()
// once it is loaded, then detach() and attach() for each link that is lost, until it is complete().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"
#include "wire/messages.hpp"

namespace migrate::postcopy {

/// What the target did. Times in microseconds of wall time.
struct TargetFigures {
  std::uint64_t faults = 0;        ///< Of pages that were missing, each page (granule) once.
  std::uint64_t local_faults = 0;  ///< Of pages that read as zero and needed nobody.
  /// From when a fault was read from the userfaultfd until its page was in place.
  double fault_p50_us = 0, fault_p99_us = 0, fault_max_us = 0;
  /// How long each thread (gettid) waited in all, by those times; faults of one thread at a time.
  std::vector<std::pair<int, double>> stall_us_by_thread;
  std::uint64_t arrived = 0;    ///< Pages that came lazily and were put in place.
  std::uint64_t twice = 0;      ///< Came although they were there: a demand met a push.
  std::uint64_t refetched = 0;  ///< Did not have their hash and were demanded anew.
  std::uint64_t wire_bytes = 0;
};

/// All methods are the coordinator's unless said otherwise.
class LazyTarget {
 public:
  struct Context {
    PageSink& pages;     ///< Every region mapped in this process.
    PageLedger& ledger;  ///< Void pages are those that are missing; each gets its hash as it comes.
    const wire::PageDigest& digest;
    nanoseconds idle_max;  ///< A lane that stays silent within a record for this long has failed.
    /// Called from any thread when the lanes have failed or the last page is in place.
    std::function<void()> on_news;
  };

  /// Whether memory here can be filled lazily: kUnsupported or kPermission with a remedy when not.
  /// Touches nothing.
  static Status possible(PageSink& pages, std::span<const Region> regions);

  /// Registers all of the ledger's regions, for which no lane may be at work, and starts the fault
  /// threads. From here on nobody may touch memory but by this: the caller's threads would wait for
  /// pages like the guest's. kBusy where a region has another userfaultfd.
  static Result<std::unique_ptr<LazyTarget>> create(Context context);
  /// Ends all threads and takes the registration back; whoever still waits gets zeros.
  ~LazyTarget();

  /// Units in which regions are filled, where that is more than a page.
  [[nodiscard]] std::vector<wire::LazyTerms::Granule> granules() const;

  /// Pages of `set` (whole granules) are going to come lazily: what is here of them is dropped. The
  /// caller has made them void in the ledger. No guest runs. May be called again with others.
  Status miss(const PageBitmap& set);

  /// From here on pages come on these lanes, in PAGES records of `round`; what waits is demanded.
  Status attach(std::vector<std::unique_ptr<RecordChannel>> bulk,
                std::unique_ptr<RecordChannel> urgent, std::uint32_t round);
  /// Ends the lanes. Whoever waits goes on waiting. Harmless without lanes.
  void detach();
  /// Why the lanes ended by themselves: kLinkLost or kTimeout, or a peer that is wrong (kProtocol,
  /// kIntegrity). Any thread.
  [[nodiscard]] std::optional<Error> failure();

  /// Until this is called lanes that fail end all waiting, by zeros: the guest is not going to run
  /// here, and whoever loads its state must come to an end. From then on waiting is for as long as
  /// it takes.
  void guest_may_wait();

  /// Of a guest that has started and has ended or stands for good: where pages are missing, all of
  /// its memory is made inaccessible (PROT_NONE), so that who waits for one gets an error, not
  /// zeros, which a disk's write that waits would put on the disk. Before the destructor.
  void forbid();

  /// From when this returns on_news is not called any more: whoever it told may go.
  void end_news();

  /// Nothing is missing. Any thread.
  [[nodiscard]] bool complete() const;
  [[nodiscard]] std::uint64_t missing_pages() const;
  [[nodiscard]] PageBitmap missing() const;
  /// Pages put in place since this was called last, for INSTALLED.
  [[nodiscard]] PageBitmap take_installed();
  [[nodiscard]] TargetFigures figures() const;

 private:
  class Impl;
  explicit LazyTarget(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate::postcopy
