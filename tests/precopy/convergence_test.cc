#include "precopy/convergence.hpp"

#include <gtest/gtest.h>

namespace migrate::precopy {
namespace {

using Action = Decision::Action;

// 4 KiB at about 1 GB/s.
constexpr double kMsPerPage = 0.004;

ConvergenceInput input_with(std::span<const RoundSample> rounds) {
  ConvergenceInput input;
  input.rounds = rounds;
  input.rounds_done = static_cast<std::uint32_t>(rounds.size());
  input.ms_per_page = input.switchover_ms_per_page = kMsPerPage;
  input.fixed = {
      .pause = 0.3, .final_sync = 0.1, .state_save = 0.1, .state_load = 0.1, .round_trip = 0.1};
  input.max_downtime_ms = 50;
  input.max_rounds = 30;
  input.can_throttle = true;
  return input;
}

RoundSample round_of(std::uint64_t sent, std::uint64_t dirty_after) {
  return {sent, sent * 4096, static_cast<double>(sent) * kMsPerPage, dirty_after};
}

struct Case {
  const char* name;
  std::vector<RoundSample> rounds;
  Action expected;
  double max_downtime_ms = 50;
  std::uint32_t max_rounds = 30;
  bool can_throttle = true;
  bool out_of_steps = false;
  double throttle = 0;
};

TEST(Convergence, DecidesByTable) {
  const std::vector<Case> cases = {
      {"an idle guest stops after the first round", {round_of(262144, 10)}, Action::kSwitchover},
      {"what fits the limit but still shrinks fast gets another round",
       {round_of(262144, 10000)},
       Action::kNextRound},
      {"what fits and no longer halves stops",
       {round_of(262144, 10000), round_of(10000, 9000)},
       Action::kSwitchover},
      {"too much left goes on", {round_of(262144, 100000)}, Action::kNextRound},
      {"one round without progress is no stall yet",
       {round_of(262144, 50000), round_of(50000, 50000)},
       Action::kNextRound},
      {"two are one, and throttle",
       {round_of(262144, 50000), round_of(50000, 50000), round_of(50000, 49000)},
       Action::kThrottle},
      {"a stall without throttle goes on while steps are left",
       {round_of(262144, 50000), round_of(50000, 50000), round_of(50000, 49000)},
       Action::kNextRound,
       50,
       30,
       false},
      {"a stall with the ladder spent aborts",
       {round_of(262144, 50000), round_of(50000, 50000), round_of(50000, 49000)},
       Action::kAbort,
       50,
       30,
       false,
       true},
      {"a throttle at its limit cannot be raised",
       {round_of(262144, 50000), round_of(50000, 50000), round_of(50000, 49000)},
       Action::kAbort,
       50,
       30,
       true,
       true,
       kThrottleMax},
      {"the round limit without throttle aborts",
       {round_of(262144, 100000), round_of(100000, 50000)},
       Action::kAbort,
       50,
       2,
       false},
      {"the round limit never stops what fits", {round_of(262144, 10)}, Action::kSwitchover, 50, 1},
      {"a limit below the fixed costs is never met",
       {round_of(262144, 0)},
       Action::kAbort,
       0.1,
       1,
       false},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    ConvergenceInput input = input_with(c.rounds);
    input.max_downtime_ms = c.max_downtime_ms;
    input.max_rounds = c.max_rounds;
    input.can_throttle = c.can_throttle;
    input.out_of_steps = c.out_of_steps;
    input.throttle = c.throttle;
    const Decision decision = decide(input);
    EXPECT_EQ(static_cast<int>(decision.action), static_cast<int>(c.expected)) << decision.reason;
    EXPECT_FALSE(decision.reason.empty());
  }
}

TEST(Convergence, ThrottleGrowsUntilItSuffices) {
  const std::vector<RoundSample> rounds = {round_of(262144, 50000), round_of(50000, 50000),
                                           round_of(50000, 50000)};
  ConvergenceInput input = input_with(rounds);
  double before = 0;
  for (int step = 0; step < 20 && before < kThrottleMax; ++step) {
    input.throttle = before;
    const Decision decision = decide(input);
    ASSERT_EQ(decision.action, Action::kThrottle);
    ASSERT_GT(decision.throttle, before);
    ASSERT_LE(decision.throttle, kThrottleMax);
    before = decision.throttle;
  }
  EXPECT_DOUBLE_EQ(before, kThrottleMax);
}

TEST(Convergence, PredictionIsFixedCostsPlusPages) {
  const FixedCosts fixed{
      .pause = 1, .final_sync = 2, .state_save = 3, .state_load = 4, .round_trip = 2};
  EXPECT_DOUBLE_EQ(predict_downtime_ms(fixed, 0.5, 10), 13 + 5);
}

}  // namespace
}  // namespace migrate::precopy
