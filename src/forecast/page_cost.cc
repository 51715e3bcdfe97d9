#include "forecast/page_cost.hpp"

#include <algorithm>

#include "migrate/memory.hpp"

namespace migrate::forecast {
namespace {

// Rounds smaller than this say nothing of the link: they fit into socket buffers.
constexpr std::uint64_t kTellingBytes = 8ull << 20;
// Below, too few pages to tell what looking at one takes.
constexpr std::uint64_t kTellingPages = 256;
// A shared link and shared processors: what a page costs next is within this of what it cost last,
// in 19 of 20 cases, where rounds have not shown a wider spread.
constexpr double kSpreadLeast = 1.2;
// What a former round counts for when the link's capacity is measured.
constexpr double kOldRounds = 0.7;
// Not measured at all: the link may be slower by far.
constexpr double kSpreadUnmeasured = 2;

double at_least_one(std::uint64_t count) {
  return static_cast<double>(std::max<std::uint64_t>(1, count));
}

/// Of `bytes` at a limit; 0 where there is none.
double limited_ms(double bytes, std::uint64_t bytes_per_s) {
  return bytes_per_s == 0 ? 0 : 1000 * bytes / static_cast<double>(bytes_per_s);
}

}  // namespace

void PageCost::note(const CarriedRound& round) {
  const double lanes = static_cast<double>(round.lanes);
  const double looked_at = at_least_one(round.looked_at);
  note_capacity(round);
  if (round.wire_bytes >= kTellingBytes && round.sent * 2 >= round.looked_at) {
    // The round as a whole, its barrier included: what the same number of pages would take again.
    measured_ = true;
    const double held_back = std::min(round.took_ms, round.held_back_ms / lanes);
    enter(round.took_ms / looked_at, (round.took_ms - held_back) / looked_at,
          static_cast<double>(round.wire_bytes) / looked_at);
    recent_[next_++ % recent_.size()] = switchover_ms_;
  } else if (!measured_ && round.sent >= kTellingPages) {
    // Mostly zero or unchanged pages: what a page costs by the lanes' own time.
    const double sending = round.sending_ms / at_least_one(round.sent);
    const double looking = (round.busy_ms - round.sending_ms - round.held_back_ms) / looked_at;
    enter((sending + looking) / lanes, (sending + looking) / lanes, kPageSize);
  } else if (!measured_) {
    enter(round_ms_, switchover_ms_, kPageSize);
  }
}

void PageCost::note_capacity(const CarriedRound& round) {
  // All but the lanes' own work: what is in flight when the last call has returned counts as well.
  const double own_ms = round.busy_ms - round.sending_ms - round.held_back_ms;
  const double waited_ms = round.took_ms - own_ms / static_cast<double>(round.lanes);
  if (round.wire_bytes < kTellingBytes || !(waited_ms > 0)) return;
  // Weighed by bytes: the smaller a round, the more of it fits into buffers.
  told_bytes_ = kOldRounds * told_bytes_ + static_cast<double>(round.wire_bytes);
  told_ms_ = kOldRounds * told_ms_ + waited_ms;
  capacity_ = static_cast<std::uint64_t>(1000 * told_bytes_ / told_ms_);
}

void PageCost::enter(double round_ms, double unlimited_ms, double wire_bytes) {
  round_ms_ = round_ms;
  wire_bytes_ = wire_bytes;
  // Packed, more pages fit through the limit than whole ones.
  if (!measured_ || !may_pack_) {
    round_ms_ = std::max(round_ms_, limited_ms(kPageSize, round_limit()));
  }
  const bool own =
      (limits_.switchover != 0 && limits_.switchover != limits_.round) || lowered_ != 0;
  switchover_ms_ =
      own ? std::max(unlimited_ms, limited_ms(wire_bytes, limits_.switchover)) : round_ms_;
}

Estimate PageCost::in_switchover() const {
  double most = switchover_ms_ * (measured_ ? kSpreadLeast : kSpreadUnmeasured);
  for (const double past : recent_) most = std::max(most, std::min(past, 2 * switchover_ms_));
  return {switchover_ms_, most};
}

}  // namespace migrate::forecast
