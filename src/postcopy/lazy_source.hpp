// LazySource: the source's memory while its guest runs at the target. Pages that the guest waits
// for leave at once on the urgent lane; the rest is pushed on the bulk lanes, paced so that the
// urgent lane is not held up by them.
//
// The life of one: the constructor and attach() while the guest runs, for both take time; stands(),
// lead(), push() once it has started at the target; after a lost link detach(), still_missing(),
// attach().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "migrate/options.hpp"
#include "migrate/result.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"
#include "wire/messages.hpp"

namespace migrate::postcopy {

/// What the source did.
struct SourceFigures {
  std::uint64_t demanded = 0;       ///< Pages sent because they were asked for.
  std::uint64_t pushed = 0;         ///< Pages sent unasked, zeros among them.
  std::uint64_t raw = 0, zero = 0;  ///< Of both.
  std::uint64_t wire_bytes = 0;
  nanoseconds cpu{0};
};

/// All methods are the coordinator's unless said otherwise. The guest's memory does not change from
/// when it stands.
class LazySource {
 public:
  struct Context {
    PageSource& pages;
    PageLedger& ledger;  ///< Each page gets its hash as it is sent.
    const wire::PageDigest& digest;
    nanoseconds idle_max;  ///< A lane that takes nothing for this long has failed.
    /// Limits of what is pushed, the lesser counts; 0: none.
    std::uint64_t bandwidth_bytes_per_s = 0;
    std::uint64_t push_bandwidth_bytes_per_s = 0;
    /// Of the link as rounds have measured it; 0: not known.
    std::uint64_t capacity_bytes_per_s = 0;
    PushPattern push_order = PushPattern::kBubble;
    /// Called from any thread when the lanes have failed.
    std::function<void()> on_failure;
  };
  struct Work {
    PageBitmap missing;  ///< What the target lacks: whole granules, void in the ledger.
    PageBitmap first;    ///< Of that, what leaves before the guest starts there.
    PageBitmap recent;   ///< Of that, what the guest wrote lately: next.
    std::vector<wire::LazyTerms::Granule> granules;
    bool stands = true;  ///< The guest stands; if not, nothing is sent before stands() is called.
  };
  LazySource(Context context, Work work);
  ~LazySource();  ///< detach()

  /// Serves demands from here on, and sends what is `first`. PAGES records are of `round`.
  Status attach(std::vector<std::unique_ptr<RecordChannel>> bulk,
                std::unique_ptr<RecordChannel> urgent, std::uint32_t round);
  /// The guest stands now, and `missing` is all that the target lacks: demands are served.
  void stands(const PageBitmap& missing);
  /// Of that, what leaves at once. Not before the target knows that it lacks it: pages would
  /// overtake the list on their lanes.
  void lead(const PageBitmap& first);
  /// Pushes the rest. Stays so for later lanes.
  void push();
  /// Ends the lanes. Harmless without lanes.
  void detach();
  /// Without lanes: exactly this has not come, as the target says.
  void still_missing(const PageBitmap& missing);

  /// Why the lanes ended by themselves: kLinkLost or kTimeout, a peer that is wrong (kProtocol), or
  /// memory that cannot be read. Any thread.
  [[nodiscard]] std::optional<Error> failure();
  /// Pages that were not sent yet; what was may not have come.
  [[nodiscard]] std::uint64_t pages_left() const;
  [[nodiscard]] SourceFigures figures() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace migrate::postcopy
