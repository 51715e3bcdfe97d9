// Rounds: one pass after another over what is dirty, until somebody says that the next is the last.
//
// The order that keeps every write: collect the log, re-arm a window of it, read the window, send
// it. A page written after its re-arm is in the log again and belongs to a later round, so it need
// not be sent in this one.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "memory/page_ledger.hpp"
#include "migrate/clock.hpp"
#include "migrate/dirty_tracker.hpp"
#include "migrate/memory.hpp"
#include "precopy/page_heat.hpp"
#include "transport/bulk_senders.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"

namespace migrate::precopy {

struct RoundOutcome {
  std::uint32_t round = 0;
  std::uint64_t set_pages = 0;  ///< In the round's set.
  std::uint64_t looked_at = 0;  ///< Handed to the lanes.
  std::uint64_t redirtied = 0;  ///< Left to a later round: written again before they were read.
  BulkTotals bulk;
  nanoseconds took{0};            ///< From the first re-arm to the target's acknowledgement.
  nanoseconds collect{0};         ///< The collect that ended it.
  std::uint64_t dirty_after = 0;  ///< Pages of the next set.
};

/// All methods are the coordinator's. Regions may come and go between rounds.
class Rounds {
 public:
  struct Context {
    PageSource& pages;
    DirtyTracker& tracker;
    PageLedger& ledger;
    const wire::PageDigest& digest;
    BulkSenders* senders;
    RecordChannel* control;
    Clock& clock;
    nanoseconds idle_max;
    /// Called every few milliseconds with the pages handed out so far; an error stops the round.
    std::function<Status(std::uint64_t pages_done)> on_progress;
  };
  explicit Rounds(Context context);

  /// Starts tracking; the first set is everything but holes. `stands`: the guest is paused and
  /// stays so, thus its pages need not be copied before they leave; saving its state may still
  /// write some.
  Status start(bool stands);
  /// Without tracking, for a guest that stands already: the set is everything but holes.
  Status start_paused();

  /// One round over the current set, through the target's acknowledgement; then collects the next.
  Result<RoundOutcome> run();

  /// After run() failed with the link lost, and no lane works any more: the target says on a new
  /// link that its open round is `round`, and that `digest` is what it acknowledged before. When
  /// only the acknowledgement was lost, this is run()'s result. Otherwise nothing of the round
  /// counts: all of it is dirty again, and void_set() is void here. kProtocol or kIntegrity when
  /// the target cannot be right. May be called again when the new link is lost, too.
  Result<std::optional<RoundOutcome>> reconcile(std::uint32_t round, std::uint64_t digest);
  /// What may have been sent in the open round, after reconcile(): what the target must forget.
  [[nodiscard]] const PageBitmap& void_set() const { return open_set_; }
  /// The new link.
  void use(BulkSenders& senders, RecordChannel& control);

  /// Collects for the last time and hands everything left to the lanes. The guest stands, and its
  /// memory is final.
  Status begin_final();
  /// Sends the rest of it and the final barriers. `await`: also waits until the target has applied
  /// all; without it the acknowledgement is on its way when this returns.
  Result<RoundOutcome> finish_final(bool await);

  [[nodiscard]] std::uint32_t round() const { return round_; }  ///< Number of the next round.
  [[nodiscard]] std::uint64_t pages_left() const { return set_.count(); }
  /// Of all memory as sent.
  [[nodiscard]] std::uint64_t digest() const { return digest_; }
  /// Pages that were holes in round 0 and never in a later set: zero without looking.
  [[nodiscard]] const PageBitmap& holes() const { return holes_; }
  /// What the last collect took.
  [[nodiscard]] nanoseconds last_collect() const { return last_collect_; }
  [[nodiscard]] nanoseconds final_collect() const { return final_.collect; }

 private:
  struct Window {
    std::size_t segment = 0;
    PageRange range;
  };
  Status find_holes();
  Status collect();
  Status send_round();
  Result<RoundOutcome> close_round();
  Status rewind();
  Status send_part(const PageBitmap& part, bool rearm);
  Status dispatch(const PageBitmap& part, const Window& window, bool skip_again);
  Status add_to_batch(PageLedger::Entry* entry, std::uint64_t page);
  Status flush_batch();
  Status look_again();
  Status sync_regions(bool& changed);
  Status send_barrier(const BulkTotals& totals, bool final, bool later);
  Status await_ack();
  [[nodiscard]] std::uint64_t digest_to_acknowledge();
  Status apply_regions(const wire::Regions& change);
  void follow_regions(const std::vector<Region>& regions);
  [[nodiscard]] std::size_t windows_ahead() const;

  Context context_;
  PageHeat heat_;
  PageBitmap set_;        // What the next round sends.
  PageBitmap open_set_;   // What the open round sends: kept until it is acknowledged.
  PageBitmap collected_;  // What the latest collect gave: the only bits that may be re-armed.
  PageBitmap again_;      // Written again since their re-arm, as of the latest peek.
  PageBitmap holes_;
  PageBatch batch_;
  bool tracking_ = false;
  bool stable_ = false;  // The guest stands.
  std::uint32_t round_ = 0;
  std::uint64_t digest_ = 0;
  std::uint64_t acknowledged_digest_ = 0;
  bool barrier_sent_ = false;  // The open round's, on the control lane.
  RoundOutcome open_;
  std::chrono::steady_clock::time_point open_since_{};
  std::uint64_t dispatched_ = 0;
  std::uint64_t redirtied_ = 0;
  double bytes_per_s_ = 0;  // Of page content, in the last long round.
  nanoseconds last_collect_{0};
  std::chrono::steady_clock::time_point peeked_at_{};
  wire::Regions pending_regions_;
  RoundOutcome final_;
};

}  // namespace migrate::precopy
