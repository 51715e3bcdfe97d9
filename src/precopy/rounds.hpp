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
#include "precopy/throttle_controller.hpp"
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

/// All methods are the coordinator's; those of the last round are in final_round.cc. Regions may
/// come and go between rounds.
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
    /// Called within a round after each look at the tracker; may be empty.
    std::function<Status(const DirtySample&)> on_sample = {};
  };
  explicit Rounds(Context context);

  /// Starts tracking; the first set is everything but holes. `stands`: the guest is paused and
  /// stays so, thus its pages need not be copied before they leave; saving its state may still
  /// write some. Called again, after an attempt was given up, it does nothing.
  Status start(bool stands);
  /// Without tracking, for a guest that stands already: the set is everything but holes.
  Status start_paused();

  /// One round over the current set, through the target's acknowledgement; then collects the next.
  Result<RoundOutcome> run();
  /// As run(), of all that was written until now: the guest stands.
  Result<RoundOutcome> run_settled();

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

  /// Bounds begin_final() and finish_final(): at `deadline` they fail with kTimeout, and nothing
  /// that they send is waited for. Pages leave from a copy, for the guest may go on any time.
  void set_deadline(std::optional<std::chrono::steady_clock::time_point> deadline);
  /// The guest goes on, wherever the final round was: ends that with what has left of it, and waits
  /// for the lanes. All of it is dirty again. Its acknowledgement is still to come. The totals are
  /// of all that was sent since begin_final().
  Result<RoundOutcome> abandon_final();
  /// Rounds may go on after it. `forgotten`: pages of which the target's content is not known.
  Status go_on(const PageBitmap& forgotten);

  /// Post-copy instead of a last round, in lazy_round.cc. Widens a set to what is sent together.
  using Widen = std::function<void(PageBitmap&)>;
  /// While the guest runs: all that is dirty is going to follow it, and is void here from now on.
  /// No round comes any more.
  const PageBitmap& begin_lazy(const Widen& widen);
  /// Collects for the last time, while the guest stands and its memory is final: what else is going
  /// to follow, void here from now on.
  Result<PageBitmap> finish_lazy(const Widen& widen);
  /// All that follows.
  [[nodiscard]] const PageBitmap& lazy_set() const { return lazy_set_; }
  /// Of that, what was dirty in at least two of the last rounds.
  [[nodiscard]] PageBitmap lazy_hot() const { return heat_.hot_part(lazy_set_); }

  [[nodiscard]] std::uint32_t round() const { return round_; }  ///< Number of the next round.
  [[nodiscard]] std::uint64_t pages_left() const { return set_.count(); }
  /// Of all memory as sent.
  [[nodiscard]] std::uint64_t digest() const { return digest_; }
  /// Pages that were holes in round 0 and never in a later set: zero without looking. Once
  /// finish_lazy() was called also those that follow.
  [[nodiscard]] const PageBitmap& holes() const { return holes_; }
  /// What the last collect took.
  [[nodiscard]] nanoseconds last_collect() const { return last_collect_; }
  [[nodiscard]] nanoseconds final_collect() const { return final_.collect; }
  /// What was dirty when the latest round ended, as a sample of it.
  [[nodiscard]] DirtySample last_sample() const;
  /// Of the next set: pages of the writable working set, dirty in at least two of the last rounds.
  [[nodiscard]] std::uint64_t hot_pages() const { return heat_.hot_part(set_).count(); }

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
  [[nodiscard]] DirtySample sample(std::uint64_t dirtied) const;
  void note_writers();
  void make_lazy(const PageBitmap& set);

  Context context_;
  PageHeat heat_;
  PageBitmap set_;        // What the next round sends.
  PageBitmap open_set_;   // What the open round sends: kept until it is acknowledged.
  PageBitmap collected_;  // What the latest collect gave: the only bits that may be re-armed.
  PageBitmap again_;      // Written again since their re-arm, as of the latest peek.
  PageBitmap holes_;
  PageBitmap lazy_set_;
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
  std::vector<std::uint64_t> written_before_;  // By vCPU, when the round began.
  std::vector<std::uint64_t> written_;         // By vCPU, in this round, as of the latest look.
  double bytes_per_s_ = 0;                     // Of page content, in the last long round.
  nanoseconds last_collect_{0};
  std::chrono::steady_clock::time_point peeked_at_{};
  wire::Regions pending_regions_;
  RoundOutcome final_;
  enum class FinalStage : std::uint8_t {
    kNone,         // Nothing of it was sent.
    kRegions,      // The barrier before it was, which makes room for new regions.
    kOpen,         // Its pages are on their way.
    kBarrierSent,  // And its barriers.
    kDone,         // finish_final() has returned.
  };
  FinalStage final_stage_ = FinalStage::kNone;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
};

}  // namespace migrate::precopy
