#include "precopy/convergence.hpp"

#include <algorithm>

namespace migrate::precopy {
namespace {

using Action = Decision::Action;

// A round that leaves more than this share of the former round's set has not shrunk it: at 0.9 a
// guest needs over 20 rounds for each factor of ten, more than the default limit has.
constexpr double kShrinkNeeded = 0.9;

bool shrank(const RoundSample& before, const RoundSample& after) {
  return static_cast<double>(after.dirty_after_pages) <
         kShrinkNeeded * static_cast<double>(before.dirty_after_pages);
}

bool stalled(std::span<const RoundSample> rounds) {
  // Round 0 sends all of memory, so only sets left by full rounds compare: two of them in a row.
  const std::size_t n = rounds.size();
  return n >= 3 && !shrank(rounds[n - 2], rounds[n - 1]) && !shrank(rounds[n - 3], rounds[n - 2]);
}

// The share to withhold so that pages are dirtied at 0.8 of the rate at which they leave
// (1 - rho_target / rho of what the guest runs now), and at least a tenth more than now.
double next_throttle(const ConvergenceInput& input) {
  constexpr double kRhoTarget = 0.8;
  constexpr double kStep = 0.1;
  const RoundSample& last = input.rounds.back();
  const double drained_ms = input.ms_per_page * static_cast<double>(last.dirty_after_pages);
  const double rho = last.ms > 0 ? drained_ms / last.ms : 1.0;
  const double wanted = rho > kRhoTarget ? 1 - (1 - input.throttle) * kRhoTarget / rho : 0;
  return std::min(kThrottleMax, std::max(wanted, input.throttle + kStep));
}

}  // namespace

double predict_downtime_ms(const FixedCosts& fixed, double ms_per_page, std::uint64_t pages) {
  return fixed.sum() + ms_per_page * static_cast<double>(pages);
}

Decision decide(const ConvergenceInput& input) {
  const RoundSample& last = input.rounds.back();
  Decision decision;
  decision.throttle = input.throttle;
  decision.predicted_downtime_ms =
      predict_downtime_ms(input.fixed, input.switchover_ms_per_page, last.dirty_after_pages);
  const bool fits = decision.predicted_downtime_ms <= input.max_downtime_ms;
  const bool rounds_left = input.rounds_done < input.max_rounds;
  if (fits) {
    // One more round is nearly free while each still halves what is left; without it a generous
    // limit would be used up although a tenth of it is in reach.
    const bool worth_it =
        rounds_left && last.dirty_after_pages * 2 < last.pages_sent &&
        input.switchover_ms_per_page * static_cast<double>(last.dirty_after_pages) >
            input.fixed.sum();
    decision.action = worth_it ? Action::kNextRound : Action::kSwitchover;
    decision.reason = worth_it ? "the set still shrinks fast" : "the forecast keeps the limit";
    return decision;
  }
  if (rounds_left && !stalled(input.rounds)) {
    decision.reason = "the set shrinks";
    return decision;
  }
  decision.reason =
      rounds_left ? "the dirty set has stopped shrinking" : "the round limit is reached";
  if (input.can_throttle && input.throttle < kThrottleMax) {
    decision.action = Action::kThrottle;
    decision.throttle = next_throttle(input);
    return decision;
  }
  // A stall with rounds left may still end by itself (a burst); only a spent ladder aborts.
  decision.action = input.out_of_steps || !rounds_left ? Action::kAbort : Action::kNextRound;
  return decision;
}

}  // namespace migrate::precopy
