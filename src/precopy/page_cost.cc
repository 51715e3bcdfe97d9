#include "precopy/page_cost.hpp"

#include <algorithm>

namespace migrate::precopy {
namespace {

// Rounds smaller than this say nothing of the link: they fit into socket buffers.
constexpr std::uint64_t kTellingBytes = 8ull << 20;

double to_ms(nanoseconds time) { return std::chrono::duration<double, std::milli>(time).count(); }

double at_least_one(std::uint64_t count) {
  return static_cast<double>(std::max<std::uint64_t>(1, count));
}

/// Of `bytes` at a limit; 0 where there is none.
double limited_ms(double bytes, std::uint64_t bytes_per_s) {
  return bytes_per_s == 0 ? 0 : 1000 * bytes / static_cast<double>(bytes_per_s);
}

}  // namespace

void PageCost::note(const RoundOutcome& round, std::size_t lane_count) {
  const BulkTotals& bulk = round.bulk;
  const double lanes = static_cast<double>(lane_count);
  const double looked_at = at_least_one(round.looked_at);
  if (bulk.wire_bytes >= kTellingBytes && bulk.sent() * 2 >= round.looked_at) {
    // The round as a whole, its barrier included: what the same number of pages would take again.
    measured_ = true;
    const double took = to_ms(round.took);
    const double held_back = std::min(took, to_ms(bulk.held_back) / lanes);
    enter(took / looked_at, (took - held_back) / looked_at,
          static_cast<double>(bulk.wire_bytes) / looked_at);
  } else if (!measured_ && bulk.sent() >= PageBatch::kPagesMax) {
    // Mostly zero or unchanged pages: what a page costs by the lanes' own time.
    const double sending = to_ms(bulk.sending) / at_least_one(bulk.sent());
    const double looking = to_ms(bulk.busy - bulk.sending - bulk.held_back) / looked_at;
    enter((sending + looking) / lanes, (sending + looking) / lanes, kPageSize);
  } else if (!measured_) {
    enter(round_ms_, switchover_ms_, kPageSize);
  }
}

void PageCost::enter(double round_ms, double unlimited_ms, double wire_bytes) {
  round_ms_ = round_ms;
  // Packed, more pages fit through the limit than whole ones.
  if (!measured_ || !may_pack_) {
    round_ms_ = std::max(round_ms_, limited_ms(kPageSize, limits_.round));
  }
  const bool own = limits_.switchover != 0 && limits_.switchover != limits_.round;
  switchover_ms_ =
      own ? std::max(unlimited_ms, limited_ms(wire_bytes, limits_.switchover)) : round_ms_;
}

}  // namespace migrate::precopy
