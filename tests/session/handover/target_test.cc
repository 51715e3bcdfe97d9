// The target's machine, promise by promise. What follows from all interleavings is in
// exploration_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "session/handover.hpp"

namespace migrate::session {
namespace {

using Kind = TargetEvent::Kind;
using Act = TargetAction::Kind;
using std::chrono::seconds;
using testing::ElementsAre;

constexpr nanoseconds kLoadedAt = seconds(500);
constexpr nanoseconds kLease = seconds(10);
constexpr nanoseconds kInLease = kLoadedAt + kLease - nanoseconds(1);
constexpr nanoseconds kAfterLease = kLoadedAt + kLease;

BootId this_boot_id() {
  BootId id;
  id.bytes[0] = std::byte{9};
  return id;
}

class Target {
 public:
  explicit Target(bool arbiter = false) : machine_(this_boot_id(), kLease, arbiter) {}

  std::vector<Act> on(Kind kind, std::uint32_t attempt = 1, nanoseconds now = kLoadedAt,
                      AbortScope scope = AbortScope::kSession) {
    TargetEvent event;
    event.kind = kind;
    event.attempt = attempt;
    event.now = now;
    event.scope = scope;
    actions_ = machine_.on(event);
    std::vector<Act> kinds;
    for (const TargetAction& action : actions_) kinds.push_back(action.kind);
    return kinds;
  }
  std::vector<Act> abort_attempt(std::uint32_t attempt) {
    return on(Kind::kAbort, attempt, kLoadedAt, AbortScope::kAttempt);
  }

  Target& ready(std::uint32_t attempt = 1) {
    on(Kind::kOffer, attempt), on(Kind::kLoaded, attempt);
    return *this;
  }
  Target& starting() {
    ready().on(Kind::kCommit);
    return *this;
  }
  Target& launched() {
    starting().on(Kind::kStartCheck);
    return *this;
  }
  Target& started() {
    launched().on(Kind::kGuestStarted);
    return *this;
  }

  [[nodiscard]] TargetState state() const { return machine_.state(); }
  [[nodiscard]] const TargetHandover& machine() const { return machine_; }
  [[nodiscard]] const TargetAction& action(std::size_t i) const { return actions_[i]; }

 private:
  TargetHandover machine_;
  TargetActions actions_;
};

const auto kDrop = ElementsAre(Act::kRecord, Act::kSendDiscarded, Act::kDiscardGuest);
const auto kLetGoAndDrop =
    ElementsAre(Act::kYield, Act::kRecord, Act::kSendDiscarded, Act::kDiscardGuest);

TEST(TargetHandover, TakesTheGuestInOneAttempt) {
  Target target;
  EXPECT_THAT(target.on(Kind::kOffer), ElementsAre(Act::kLoad));
  EXPECT_THAT(target.on(Kind::kLoaded), ElementsAre(Act::kRecord, Act::kSendReady));
  EXPECT_EQ(target.action(0).state, RecordState::kReady);
  EXPECT_EQ(target.action(0).attempt, 1u);
  EXPECT_EQ(target.action(0).lease_end, kLoadedAt + kLease);
  EXPECT_EQ(target.action(1).lease, kLease);
  EXPECT_EQ(target.machine().deadline(), kLoadedAt + kLease);
  EXPECT_FALSE(target.machine().committed());
  EXPECT_THAT(target.on(Kind::kCommit, 1, kInLease), ElementsAre(Act::kRecord, Act::kCheckStart));
  EXPECT_EQ(target.action(0).state, RecordState::kStarting);
  EXPECT_TRUE(target.machine().committed());
  EXPECT_THAT(target.on(Kind::kStartCheck, 0, kInLease), ElementsAre(Act::kStartGuest));
  EXPECT_THAT(target.on(Kind::kGuestStarted), ElementsAre(Act::kRecord, Act::kSendStarted));
  EXPECT_EQ(target.action(0).state, RecordState::kStarted);
  EXPECT_TRUE(target.machine().ended());
}

TEST(TargetHandover, NeverStartsWithoutCommitOfItsAttempt) {
  Target target;
  EXPECT_THAT(target.on(Kind::kCommit), ElementsAre());
  target.on(Kind::kOffer, 2);
  EXPECT_THAT(target.on(Kind::kCommit, 2), ElementsAre()) << "not loaded yet";
  target.on(Kind::kLoaded, 2);
  EXPECT_THAT(target.on(Kind::kCommit, 1), ElementsAre());
  EXPECT_THAT(target.on(Kind::kCommit, 3), ElementsAre());
  EXPECT_THAT(target.on(Kind::kStartCheck, 2), ElementsAre());
  EXPECT_EQ(target.state(), TargetState::kReady);
}

TEST(TargetHandover, ALeaseThatRanOutIsNoticedByWhateverComes) {
  for (const Kind kind : {Kind::kTick, Kind::kCommit, Kind::kAsk, Kind::kLinkLost, Kind::kOffer}) {
    Target target;
    EXPECT_THAT(target.ready().on(kind, 1, kAfterLease), kLetGoAndDrop) << to_string(kind);
    EXPECT_EQ(target.state(), TargetState::kDiscarded);
  }
}

TEST(TargetHandover, ALeaseThatRunsOutBeforeTheStartWithdraws) {
  Target target;
  EXPECT_THAT(target.starting().on(Kind::kStartCheck, 0, kAfterLease), kLetGoAndDrop);
  EXPECT_EQ(target.state(), TargetState::kWithdrawn);
  EXPECT_EQ(target.action(1).state, RecordState::kWithdrawn) << "STARTING never becomes DISCARDED";
  target.on(Kind::kAsk);
  EXPECT_EQ(target.action(0).kind, Act::kSendDiscarded);
}

TEST(TargetHandover, AnAbandonedAttemptLetsGoAndIsNoLongerReady) {
  Target target;
  EXPECT_THAT(target.ready().abort_attempt(1),
              ElementsAre(Act::kYield, Act::kRecord, Act::kSendDiscarded));
  EXPECT_EQ(target.action(1).state, RecordState::kReceiving);
  EXPECT_EQ(target.action(2).scope, AbortScope::kAttempt);
  EXPECT_EQ(target.machine().deadline(), std::nullopt);
  EXPECT_THAT(target.on(Kind::kCommit, 1), ElementsAre());
  EXPECT_THAT(target.on(Kind::kOffer, 1), ElementsAre()) << "it was abandoned";
  EXPECT_THAT(target.on(Kind::kOffer, 2), ElementsAre(Act::kLoad));
  EXPECT_THAT(target.abort_attempt(1), ElementsAre()) << "late";
  EXPECT_THAT(target.on(Kind::kLoaded, 2), ElementsAre(Act::kRecord, Act::kSendReady));
}

TEST(TargetHandover, AnAttemptAbandonedWhileItIsLoadedNeverBecomesReady) {
  Target target;
  target.on(Kind::kOffer, 1);
  EXPECT_THAT(target.abort_attempt(1), ElementsAre(Act::kSendDiscarded));
  EXPECT_THAT(target.on(Kind::kLoaded, 1), ElementsAre(Act::kYield));
  target.on(Kind::kOffer, 2);
  EXPECT_THAT(target.on(Kind::kLoaded, 1), ElementsAre(Act::kYield));
  EXPECT_THAT(target.on(Kind::kLoadFailed, 1), ElementsAre());
  EXPECT_EQ(target.state(), TargetState::kLoading);
}

TEST(TargetHandover, ANewerOfferAbandonsTheOlderAttempt) {
  Target target;
  EXPECT_THAT(target.ready().on(Kind::kOffer, 2),
              ElementsAre(Act::kYield, Act::kRecord, Act::kLoad));
  EXPECT_EQ(target.action(1).state, RecordState::kReceiving);
  EXPECT_EQ(target.state(), TargetState::kLoading);
}

TEST(TargetHandover, BeforeCommitEverythingThatFailsDiscards) {
  for (const Kind kind : {Kind::kAbort, Kind::kCancel, Kind::kFailure}) {
    Target receiving, ready;
    EXPECT_THAT(receiving.on(kind), kDrop) << to_string(kind);
    EXPECT_THAT(ready.ready().on(kind), kLetGoAndDrop) << to_string(kind);
    EXPECT_EQ(ready.action(1).state, RecordState::kDiscarded);
  }
  Target link;
  EXPECT_THAT(link.on(Kind::kLinkLost), kDrop);
  Target load;
  load.on(Kind::kOffer);
  EXPECT_THAT(load.on(Kind::kLoadFailed), kDrop);
}

TEST(TargetHandover, ALostLinkLeavesReadyStandingUntilTheLeaseEnds) {
  Target target;
  EXPECT_THAT(target.ready().on(Kind::kLinkLost, 0, kInLease), ElementsAre());
  EXPECT_THAT(target.on(Kind::kAsk, 0, kInLease), ElementsAre(Act::kSendAnswer));
  EXPECT_EQ(target.action(0).answer.state, RecordState::kReady);
  EXPECT_EQ(target.action(0).answer.attempt, 1u);
  EXPECT_EQ(target.action(0).answer.boot, this_boot_id());
  EXPECT_THAT(target.on(Kind::kCommit, 1, kInLease), ElementsAre(Act::kRecord, Act::kCheckStart));
}

TEST(TargetHandover, AfterStartingNothingDiscards) {
  for (const Kind kind : {Kind::kAbort, Kind::kCancel, Kind::kFailure, Kind::kLinkLost, Kind::kTick,
                          Kind::kCommit, Kind::kOffer}) {
    Target starting, launched, started;
    for (Target* target : {&starting.starting(), &launched.launched(), &started.started()}) {
      const TargetState before = target->state();
      for (const Act act : target->on(kind, 1, kAfterLease)) {
        EXPECT_EQ(act, Act::kSendStarted) << to_string(kind);
        EXPECT_EQ(before, TargetState::kStarted);
      }
      EXPECT_EQ(target->state(), before);
    }
  }
}

TEST(TargetHandover, NobodyIsToldStartingByAProcessThatLives) {
  Target starting, launched;
  EXPECT_THAT(starting.starting().on(Kind::kAsk), ElementsAre());
  EXPECT_THAT(launched.launched().on(Kind::kAsk), ElementsAre());
}

TEST(TargetHandover, TheEndIsToldAgainToWhoAsks) {
  Target started;
  started.started();
  Target discarded;
  discarded.on(Kind::kCancel);
  for (const Kind kind : {Kind::kAsk, Kind::kCommit, Kind::kAbort}) {
    EXPECT_THAT(started.on(kind), ElementsAre(Act::kSendStarted)) << to_string(kind);
    EXPECT_EQ(started.action(0).attempt, 1u);
    EXPECT_THAT(discarded.on(kind), ElementsAre(Act::kSendDiscarded)) << to_string(kind);
    EXPECT_EQ(discarded.action(0).scope, AbortScope::kSession);
  }
}

TEST(TargetHandover, WithAnArbiterEveryStartGoesThroughIt) {
  Target target(true);
  EXPECT_THAT(target.ready().on(Kind::kCommit), ElementsAre(Act::kAskArbiter));
  EXPECT_FALSE(target.action(0).repeat);
  EXPECT_EQ(target.machine().record_state(), RecordState::kReady);
  EXPECT_THAT(target.on(Kind::kAsk), ElementsAre(Act::kSendAnswer));
  EXPECT_THAT(target.on(Kind::kAbort), ElementsAre()) << "it may own the guest already";
  EXPECT_THAT(target.on(Kind::kArbiterUnknown), ElementsAre(Act::kAskArbiter));
  EXPECT_TRUE(target.action(0).repeat);
  EXPECT_THAT(target.on(Kind::kArbiterGranted, 0, kAfterLease),
              ElementsAre(Act::kRecord, Act::kCheckStart));
  EXPECT_THAT(target.on(Kind::kStartCheck, 0, kAfterLease), ElementsAre(Act::kStartGuest))
      << "a grant needs no lease";

  Target denied(true);
  denied.ready().on(Kind::kCommit);
  EXPECT_THAT(denied.on(Kind::kArbiterDenied), kLetGoAndDrop);
  EXPECT_EQ(denied.state(), TargetState::kDiscarded);
}

TEST(TargetHandover, ARecordThatCannotBeWrittenStopsWhatItWasFor) {
  Target ready;
  EXPECT_THAT(ready.ready().on(Kind::kRecordFailed), kLetGoAndDrop);
  EXPECT_EQ(ready.state(), TargetState::kDiscarded);
  Target starting;
  EXPECT_THAT(starting.starting().on(Kind::kRecordFailed), kLetGoAndDrop);
  EXPECT_EQ(starting.state(), TargetState::kWithdrawn);
}

TEST(TargetHandover, AStartThatFailedIsWithdrawnOnlyWhenNothingRan) {
  Target failed;
  EXPECT_THAT(failed.launched().on(Kind::kStartFailed), kLetGoAndDrop);
  EXPECT_EQ(failed.state(), TargetState::kWithdrawn);

  Target unsure;
  EXPECT_THAT(unsure.launched().on(Kind::kStartUnsure),
              ElementsAre(Act::kYield, Act::kSendAnswer, Act::kDiscardGuest));
  EXPECT_EQ(unsure.action(1).answer.state, RecordState::kStarting);
  EXPECT_FALSE(unsure.action(1).answer.process_lives);
  EXPECT_EQ(unsure.state(), TargetState::kLost);
}

TEST(Judge, AnswersForTheDeadAndForWhatHasEnded) {
  using S = RecordState;
  struct {
    S recorded;
    bool this_boot;
    S record, answer;
  } const cases[] = {
      {S::kReceiving, true, S::kDiscarded, S::kDiscarded},
      {S::kReady, true, S::kDiscarded, S::kDiscarded},
      {S::kStarting, true, S::kStarting, S::kStarting},
      {S::kStarted, true, S::kStarted, S::kStarted},
      {S::kDiscarded, true, S::kDiscarded, S::kDiscarded},
      {S::kWithdrawn, true, S::kWithdrawn, S::kDiscarded},
      {S::kUnknown, true, S::kUnknown, S::kUnknown},
      {S::kReceiving, false, S::kReceiving, S::kUnknown},
      {S::kReady, false, S::kReady, S::kUnknown},
      {S::kStarting, false, S::kStarting, S::kStarting},
      {S::kStarted, false, S::kStarted, S::kStarted},
      {S::kDiscarded, false, S::kDiscarded, S::kDiscarded},
  };
  for (const auto& test : cases) {
    const Verdict verdict = judge<AllRules>(test.recorded, false, test.this_boot);
    EXPECT_FALSE(verdict.hand_over);
    EXPECT_EQ(verdict.record, test.record) << to_string(test.recorded);
    EXPECT_EQ(verdict.answer, test.answer) << to_string(test.recorded);
    const bool decided = test.recorded >= S::kStarted;
    const Verdict living = judge<AllRules>(test.recorded, true, test.this_boot);
    EXPECT_EQ(living.hand_over, !decided) << to_string(test.recorded);
    EXPECT_EQ(living.record, test.recorded) << "never touched while its process lives";
  }
}

TEST(RecordState, StartingIsNeverForgotten) {
  using S = RecordState;
  for (const S next : {S::kUnknown, S::kReceiving, S::kReady, S::kDiscarded}) {
    EXPECT_FALSE(may_follow(S::kStarting, next)) << to_string(next);
    EXPECT_FALSE(may_follow(S::kStarted, next)) << to_string(next);
  }
  EXPECT_TRUE(may_follow(S::kStarting, S::kStarted));
  EXPECT_TRUE(may_follow(S::kStarting, S::kWithdrawn));
  EXPECT_FALSE(may_follow(S::kStarted, S::kWithdrawn));
  EXPECT_FALSE(may_follow(S::kReady, S::kStarted)) << "STARTING comes first";
  EXPECT_FALSE(may_follow(S::kDiscarded, S::kReady));
}

}  // namespace
}  // namespace migrate::session
