#include "precopy/convergence.hpp"

#include <gtest/gtest.h>

#include <chrono>

namespace migrate::precopy {
namespace {

using Action = Verdict::Action;
using std::chrono::milliseconds;

// 4 KiB at about 1 GB/s.
constexpr double kMsPerPage = 0.004;
constexpr std::uint64_t kMemory = 262144;

ConvergenceLimits limits_with(std::vector<StallStep> on_stall) {
  ConvergenceLimits limits;
  limits.policy = make_policy({});
  limits.on_stall = std::move(on_stall);
  limits.vcpus = 2;
  limits.memory_pages = kMemory;
  return limits;
}

Costs costs() {
  Costs costs;
  costs.ms_per_page = kMsPerPage;
  costs.switchover_ms_per_page = {kMsPerPage, kMsPerPage};
  costs.fixed.pause = {0.5, 0.5};
  return costs;
}

/// Runs rounds that leave `left` each, until something else than another round is due.
class Rounds {
 public:
  explicit Rounds(ConvergenceLimits limits) : convergence(std::move(limits)) {}

  Verdict round(std::uint64_t left) {
    RoundSample sample;
    sample.set_pages = sample.pages_sent = set_;
    sample.bytes_sent = set_ * 4096;
    sample.ms = static_cast<double>(set_) * kMsPerPage;
    sample.dirty_after_pages = left;
    convergence.begin_round(set_);
    DirtySample dirty;
    dirty.ms = sample.ms;
    dirty.dirtied = left;
    set_ = left;
    return convergence.after_round(sample, dirty, costs());
  }
  Verdict rounds_until_a_step(std::uint64_t left) {
    for (int i = 0; i < 100; ++i) {
      Verdict verdict = round(left);
      if (verdict.action != Action::kNextRound || !verdict.steps.empty()) return verdict;
    }
    ADD_FAILURE() << "no step in 100 rounds";
    return {};
  }

  Convergence convergence;

 private:
  std::uint64_t set_ = kMemory;
};

constexpr StallStep kThrottle{StallStep::Kind::kThrottle};
constexpr StallStep kPostcopy{StallStep::Kind::kPostcopy};
constexpr StallStep kAbort{StallStep::Kind::kAbort};
StallStep raise(int ms) { return {StallStep::Kind::kRaise, milliseconds(ms)}; }

TEST(Convergence, AnIdleGuestIsSwitchedOverAfterItsFirstRound) {
  Rounds rounds(limits_with({kAbort}));
  const Verdict verdict = rounds.round(10);
  EXPECT_EQ(verdict.action, Action::kSwitchover);
  EXPECT_GT(verdict.downtime_ms.p50, 0.5);
  EXPECT_GE(verdict.downtime_ms.p95, verdict.downtime_ms.p50);
}

TEST(Convergence, TheLadderIsClimbedInItsOrder) {
  Rounds rounds(limits_with({raise(100), kThrottle, kAbort}));
  Verdict verdict = rounds.rounds_until_a_step(50'000);  // 200 ms.
  ASSERT_EQ(verdict.steps.size(), 1u);
  EXPECT_EQ(verdict.steps.front().rfind("raise", 0), 0u);
  EXPECT_EQ(verdict.action, Action::kNextRound);
  EXPECT_EQ(rounds.convergence.max_downtime_ms(), 100);
  EXPECT_EQ(rounds.convergence.mean_share(), 0);
  verdict = rounds.rounds_until_a_step(50'000);
  ASSERT_EQ(verdict.steps.size(), 1u);
  EXPECT_EQ(verdict.steps.front().rfind("throttle", 0), 0u);
  rounds.round(50'000);
  EXPECT_GT(rounds.convergence.mean_share(), 0.05);
  for (int i = 0; i < 100 && verdict.action != Action::kAbort; ++i) verdict = rounds.round(50'000);
  EXPECT_EQ(verdict.action, Action::kAbort);
  EXPECT_FALSE(verdict.reason.empty());
}

TEST(Convergence, WhatARaisedLimitKeepsIsSwitchedOverAtOnce) {
  Rounds rounds(limits_with({raise(400)}));
  const Verdict verdict = rounds.rounds_until_a_step(50'000);
  EXPECT_EQ(verdict.steps.size(), 1u);
  EXPECT_EQ(verdict.action, Action::kSwitchover);
}

TEST(Convergence, PostcopyIsAStepWhereBothSidesCan) {
  ConvergenceLimits limits = limits_with({kPostcopy, kThrottle});
  limits.can_postcopy = true;
  Rounds can(limits);
  Verdict verdict = can.rounds_until_a_step(50'000);
  ASSERT_EQ(verdict.steps.size(), 1u);
  EXPECT_EQ(verdict.steps.front().rfind("postcopy", 0), 0u);
  EXPECT_EQ(verdict.action, Action::kPostcopy);
  EXPECT_EQ(can.convergence.mean_share(), 0);
  Rounds cannot(limits_with({kPostcopy, kThrottle}));
  verdict = cannot.rounds_until_a_step(50'000);
  ASSERT_EQ(verdict.steps.size(), 1u);
  EXPECT_EQ(verdict.steps.front().rfind("throttle", 0), 0u);
}

TEST(Convergence, HybridGoesOnOnlyWhileRoundsHalveWhatIsLeft) {
  ConvergenceLimits limits = limits_with({kAbort});
  limits.can_postcopy = limits.hybrid = true;
  Rounds rounds(limits);
  EXPECT_EQ(rounds.round(90'000).action, Action::kNextRound);
  EXPECT_EQ(rounds.round(45'000).action, Action::kNextRound);
  const Verdict verdict = rounds.round(30'000);
  EXPECT_EQ(verdict.action, Action::kPostcopy);
  EXPECT_EQ(verdict.steps.size(), 1u);
  Rounds idle(limits);
  EXPECT_EQ(idle.round(10).action, Action::kSwitchover);
}

TEST(Convergence, NoLadderMeansAbort) {
  Rounds rounds(limits_with({}));
  EXPECT_EQ(rounds.rounds_until_a_step(50'000).action, Action::kAbort);
}

TEST(Convergence, AGuestThatCannotBeThrottledGoesToTheNextStep) {
  Rounds rounds(limits_with({kThrottle, raise(400)}));
  Verdict verdict = rounds.rounds_until_a_step(50'000);
  rounds.round(50'000);
  ASSERT_GT(rounds.convergence.mean_share(), 0);
  rounds.convergence.throttle_is_unsupported();
  EXPECT_EQ(rounds.convergence.mean_share(), 0);
  verdict = rounds.rounds_until_a_step(50'000);
  ASSERT_EQ(verdict.steps.size(), 1u);
  EXPECT_EQ(verdict.steps.front().rfind("raise", 0), 0u);
}

TEST(Convergence, AHardLimitIsNeverRaised) {
  ConvergenceLimits limits = limits_with({raise(400), kAbort});
  limits.hard_ms = 20;
  Rounds rounds(limits);
  EXPECT_EQ(rounds.convergence.max_downtime_ms(), 20);
  const Verdict verdict = rounds.rounds_until_a_step(50'000);
  EXPECT_EQ(verdict.action, Action::kAbort);
  EXPECT_EQ(rounds.convergence.max_downtime_ms(), 20);
}

TEST(Convergence, OptionsBecomeLimits) {
  OutgoingOptions options;
  ASSERT_TRUE(set_option(options, "downtime-hard", "30ms"));
  ASSERT_TRUE(set_option(options, "policy", "fixed:3"));
  ASSERT_TRUE(set_option(options, "throttle-max", "0.5"));
  const ConvergenceLimits limits = limits_of(options, 3, 77);
  EXPECT_EQ(limits.max_downtime_ms, 50);
  EXPECT_EQ(limits.hard_ms, 30);
  EXPECT_EQ(limits.policy->name(), "fixed:3");
  EXPECT_EQ(limits.throttle_max, 0.5);
  EXPECT_EQ(limits.vcpus, 3u);
  EXPECT_EQ(limits.memory_pages, 77u);
}

// What a program brings itself decides.
TEST(Convergence, APolicyCanBeReplaced) {
  class Never final : public PrecopyPolicy {
   public:
    [[nodiscard]] std::string name() const override { return "never"; }
    [[nodiscard]] std::uint64_t first_rate(std::uint64_t) const override { return 7; }
    [[nodiscard]] PolicyDecision decide(const PolicyInput& input) const override {
      return {PolicyDecision::Action::kNextRound, input.rounds_done, "on and on"};
    }
  };
  OutgoingOptions options;
  options.custom_policy = std::make_shared<Never>();
  Rounds rounds(limits_of(options, 1, kMemory));
  EXPECT_EQ(rounds.convergence.first_rate(), 7u);
  for (std::uint32_t i = 1; i < 50; ++i) {
    const Verdict verdict = rounds.round(0);
    EXPECT_EQ(verdict.action, Action::kNextRound);
    EXPECT_EQ(verdict.rate_bytes_per_s, i);
  }
}

TEST(Convergence, TheOutlookSaysWhatWillBe) {
  // Nothing is known of its writes yet: all of memory goes, and the limit is all that is promised.
  Rounds rounds(limits_with({kThrottle}));
  Outlook outlook = rounds.convergence.outlook(kMemory, costs());
  EXPECT_NEAR(outlook.total_ms.p50, kMemory * kMsPerPage, 5);
  EXPECT_EQ(outlook.downtime_ms.p95, 50);
  // A guest that leaves a tenth each time.
  rounds.round(kMemory / 10);
  outlook = rounds.convergence.outlook(kMemory / 10, costs());
  EXPECT_TRUE(outlook.fits);
  EXPECT_NEAR(outlook.total_ms.p50, kMemory / 10 * kMsPerPage * 1.1, 20);
  // One that dirties as much as is sent: it fits only with the throttle.
  Rounds writers(limits_with({kThrottle}));
  writers.round(kMemory);
  EXPECT_TRUE(writers.convergence.outlook(kMemory, costs()).fits);
  Rounds unthrottled(limits_with({kAbort}));
  unthrottled.round(kMemory);
  EXPECT_FALSE(unthrottled.convergence.outlook(kMemory, costs()).fits);
}

}  // namespace
}  // namespace migrate::precopy
