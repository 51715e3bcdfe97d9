// Every interleaving of the two production machines in the world of model.hpp; and that each rule
// of theirs, taken away, is missed.
#include <gtest/gtest.h>

#include <cstdio>

#include "session/handover_doubt_impl.hpp"
#include "session/handover_source_impl.hpp"
#include "session/handover_target_impl.hpp"
#include "tests/session/handover/explorer.hpp"

namespace migrate::session::model {
namespace {

/// Rules of a mutant: all but one.
struct AllRulesButOne {
  static inline Rule removed{};
  static bool enforces(Rule rule) { return rule != removed; }
};

template <typename Rules>
Exploration explore(const Config& config) {
  return Explorer<Rules>(config).run();
}

void expect_safe(const Config& config) {
  const Exploration result = explore<AllRules>(config);
  EXPECT_EQ(result.violation, Violation::kNone) << name_of(result.violation) << ", after:\n"
                                                << result.trace;
  EXPECT_GT(result.settled, 0u);
  std::printf("%zu states, %zu steps, %zu ends\n", result.states, result.steps, result.settled);
}

Config everything(std::uint32_t attempts, bool arbiter) {
  Config config;
  config.attempts = attempts;
  config.arbiter = arbiter;
  return config;
}

/// No crash, no fault, no force: only then must exactly one run in the end.
Config fair(std::uint32_t attempts, bool arbiter) {
  Config config = everything(attempts, arbiter);
  config.source_dies = config.target_dies = config.host_reboots = false;
  config.faults = config.force = false;
  return config;
}

TEST(HandoverExploration, NeverTwoNeverNoneWithoutCrashes) { expect_safe(fair(3, false)); }
TEST(HandoverExploration, NeverTwoNeverNoneWithoutCrashesWithArbiter) {
  expect_safe(fair(2, true));
}
TEST(HandoverExploration, LateDiscardsOfAttemptsChangeNothing) {
  Config config = fair(2, false);
  config.attempt_discards = true;
  expect_safe(config);
}
TEST(HandoverExploration, NeverTwoWhateverHappens) { expect_safe(everything(2, false)); }
TEST(HandoverExploration, NeverTwoWhateverHappensWithLocks) {
  Config config = everything(2, false);
  config.locks = true;
  expect_safe(config);
}
TEST(HandoverExploration, NeverTwoWhateverHappensWithArbiter) { expect_safe(everything(2, true)); }

Config lazy(Config config) {
  config.lazy = true;
  return config;
}

TEST(HandoverExploration, PostCopyKeepsThePagesWithoutCrashes) {
  expect_safe(lazy(fair(2, false)));
}
TEST(HandoverExploration, PostCopyKeepsThePagesWithoutCrashesWithArbiter) {
  expect_safe(lazy(fair(1, true)));
}
TEST(HandoverExploration, PostCopyKeepsThePagesWhateverHappens) {
  expect_safe(lazy(everything(2, false)));
}
TEST(HandoverExploration, PostCopyKeepsThePagesWhateverHappensWithArbiter) {
  expect_safe(lazy(everything(1, true)));
}

TEST(HandoverExploration, IsTheSameEveryTime) {
  const Exploration first = explore<AllRules>(fair(1, true));
  const Exploration second = explore<AllRules>(fair(1, true));
  EXPECT_EQ(first.states, second.states);
  EXPECT_EQ(first.steps, second.steps);
}

struct Mutant {
  Rule removed;
  const char* name;
  bool arbiter;
  Violation expected;
  bool lazy = false;

  friend void PrintTo(const Mutant& mutant, std::ostream* out) { *out << mutant.name; }
};

class HandoverMutant : public testing::TestWithParam<Mutant> {};

TEST_P(HandoverMutant, IsCaught) {
  AllRulesButOne::removed = GetParam().removed;
  Config config = everything(2, GetParam().arbiter);
  config.lazy = GetParam().lazy;
  config.attempt_discards = GetParam().removed == Rule::kDiscardedForGood;
  const Exploration result = explore<AllRulesButOne>(config);
  EXPECT_STREQ(name_of(result.violation), name_of(GetParam().expected)) << result.trace;
  EXPECT_FALSE(result.trace.empty());
  std::printf("%s, seen after %zu states\n", name_of(result.violation), result.states);
}

constexpr Mutant kMutants[] = {
    {Rule::kReadyOfThisAttempt, "ReadyOfThisAttempt", false, Violation::kTwoRun},
    {Rule::kDiscardedForGood, "DiscardedForGood", false, Violation::kTwoRun},
    {Rule::kCommitOfThisAttempt, "CommitOfThisAttempt", false, Violation::kTwoRun},
    {Rule::kCommitInLease, "CommitInLease", false, Violation::kLateStarting},
    {Rule::kStartInLease, "StartInLease", false, Violation::kTwoRun},
    {Rule::kStartingRecordedFirst, "StartingRecordedFirst", false, Violation::kStartUnrecorded},
    {Rule::kAbandonedIsRecorded, "AbandonedIsRecorded", false, Violation::kJournalDisagrees},
    {Rule::kNoCancelAfterCommit, "NoCancelAfterCommit", false, Violation::kTwoRun},
    {Rule::kAskBeforeResume, "AskBeforeResume", false, Violation::kTwoRun},
    {Rule::kUnknownIsNoAnswer, "UnknownIsNoAnswer", false, Violation::kTwoRun},
    {Rule::kRebootIsForOperator, "RebootIsForOperator", false, Violation::kSplitHistory},
    {Rule::kStartedIsFinal, "StartedIsFinal", false, Violation::kEndNotFinal},
    {Rule::kForceAfterLease, "ForceAfterLease", false, Violation::kTwoRun},
    {Rule::kForceWithoutAnswer, "ForceWithoutAnswer", false, Violation::kTwoRun},
    {Rule::kArbiterBeforeStart, "ArbiterBeforeStart", true, Violation::kTwoRun},
    {Rule::kArbiterBeforeResume, "ArbiterBeforeResume", true, Violation::kTwoRun},
    {Rule::kArbiterUnknownIsNo, "ArbiterUnknownIsNo", true, Violation::kTwoRun},
    {Rule::kReadyIsNotStarted, "ReadyIsNotStarted", false, Violation::kNobodyRuns},
    {Rule::kServeUntilComplete, "ServeUntilComplete", false, Violation::kPagesLost, true},
    {Rule::kOwedNeedsForce, "OwedNeedsForce", false, Violation::kPagesLost, true},
    {Rule::kServedIsNotOurs, "ServedIsNotOurs", false, Violation::kSplitHistory, true},
    {Rule::kLivingOwnerAnswers, "LivingOwnerAnswers", false, Violation::kJournalDisagrees},
    {Rule::kStartingIsKept, "StartingIsKept", false, Violation::kStartingForgotten},
    {Rule::kOldReadyIsUnknown, "OldReadyIsUnknown", false, Violation::kSplitHistory},
};
static_assert(std::size(kMutants) == kRuleCount, "each rule must be shown to be needed");

INSTANTIATE_TEST_SUITE_P(EachRule, HandoverMutant, testing::ValuesIn(kMutants),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace migrate::session::model
