#include "precopy/policy_own.hpp"

#include <algorithm>

namespace migrate::precopy {
namespace {

using Action = PolicyDecision::Action;

constexpr double kShrinkNeeded = OwnPolicy::kShrinkNeeded;
// So many rounds in a row make a window. A guest that writes in bursts has good rounds in it.
constexpr std::size_t kWindow = 2;

std::uint64_t least_left(std::span<const RoundSample> rounds) {
  std::uint64_t least = UINT64_MAX;
  for (const RoundSample& round : rounds) least = std::min(least, round.dirty_after_pages);
  return least;
}

/// The latest window left no less than what had been reached before it.
bool stopped_shrinking(std::span<const RoundSample> rounds) {
  if (rounds.size() <= kWindow) return false;
  const double now = static_cast<double>(least_left(rounds.last(kWindow)));
  const double before = static_cast<double>(least_left(rounds.first(rounds.size() - kWindow)));
  return now >= kShrinkNeeded * before;
}

/// By what is written again and again, rounds will end up beyond the limit: said twice in a row,
/// and the last of them did not shrink the set.
bool will_stop_shrinking(const PolicyInput& input) {
  const auto rounds = input.rounds;
  if (rounds.size() < kWindow) return false;
  for (const RoundSample& round : rounds.last(kWindow)) {
    if (!round.floor_pages) return false;
    const double floor_ms =
        input.fixed_ms + input.switchover_ms_per_page * static_cast<double>(*round.floor_pages);
    if (floor_ms <= input.max_downtime_ms) return false;
  }
  const RoundSample& last = rounds.back();
  return static_cast<double>(last.dirty_after_pages) >=
         kShrinkNeeded * static_cast<double>(rounds[rounds.size() - 2].dirty_after_pages);
}

}  // namespace

PolicyDecision OwnPolicy::decide(const PolicyInput& input) const {
  const RoundSample& last = input.rounds.back();
  const bool rounds_left = input.rounds.size() < input.max_rounds;
  if (input.downtime_ms.p95 <= input.max_downtime_ms) {
    // One more round is nearly free while each still halves what is left; without it a generous
    // limit would be used up although a tenth of it is in reach.
    const bool worth_it =
        rounds_left && last.dirty_after_pages * 2 < last.pages_sent &&
        input.switchover_ms_per_page * static_cast<double>(last.dirty_after_pages) > input.fixed_ms;
    if (worth_it) return {Action::kNextRound, 0, "the set still shrinks fast"};
    return {Action::kSwitchover, 0, "the forecast keeps the limit"};
  }
  const bool stuck = stopped_shrinking(input.rounds) || will_stop_shrinking(input);
  if (rounds_left && !stuck) return {Action::kNextRound, 0, "the set shrinks"};
  if (input.downtime_ms.p50 <= input.max_downtime_ms) {
    return {Action::kSwitchover, 0, "the forecast keeps the limit, if only just"};
  }
  return {Action::kStalled, 0,
          rounds_left ? "the dirty set has stopped shrinking" : "the round limit is reached"};
}

}  // namespace migrate::precopy
