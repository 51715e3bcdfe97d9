// The source's machine, promise by promise. What follows from all interleavings is in
// exploration_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/session/handover/source_machine.hpp"

namespace migrate::session {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using Kind = SourceEvent::Kind;
using Act = SourceAction::Kind;

TEST(SourceHandover, HandsOverInOneAttempt) {
  Source source;
  EXPECT_THAT(source.on(Kind::kBegin), ElementsAre(Act::kPauseGuest));
  EXPECT_EQ(source.machine().attempt(), 1u);
  EXPECT_THAT(source.on(Kind::kOfferable), ElementsAre(Act::kRelinquish, Act::kSendOffer));
  EXPECT_FALSE(source.machine().committed());
  EXPECT_THAT(source.ready(1), ElementsAre(Act::kSendCommit));
  EXPECT_TRUE(source.machine().committed());
  EXPECT_THAT(source.started(1), ElementsAre(Act::kReleaseGuest, Act::kSendReleased));
  EXPECT_EQ(source.state(), SourceState::kReleased);
  EXPECT_TRUE(source.machine().ended());
  EXPECT_FALSE(source.machine().lost());
}

TEST(SourceHandover, AFailureBeforeTheOfferResumesFirstAndTellsThen) {
  for (const Kind kind : {Kind::kCancel, Kind::kFailure}) {
    Source source;
    source.on(Kind::kBegin);
    EXPECT_THAT(source.on(kind), ElementsAre(Act::kResumeGuest, Act::kSendAbort));
    EXPECT_EQ(source.state(), SourceState::kKept);
    EXPECT_EQ(source.actions()[1].scope, AbortScope::kSession);
  }
}

TEST(SourceHandover, AFailureAfterTheOfferReclaimsBeforeItResumes) {
  for (const Kind kind : {Kind::kCancel, Kind::kFailure}) {
    Source source;
    source.offered();
    EXPECT_THAT(source.on(kind), ElementsAre(Act::kSendAbort, Act::kReclaim));
    EXPECT_THAT(source.on(Kind::kReclaimed), ElementsAre(Act::kResumeGuest));
    EXPECT_EQ(source.state(), SourceState::kKept);
  }
}

TEST(SourceHandover, ALostLinkOrADiscardBeforeCommitResumesWithoutAWord) {
  for (const Kind kind : {Kind::kLinkLost, Kind::kDiscarded}) {
    Source paused;
    paused.on(Kind::kBegin);
    EXPECT_THAT(paused.on(kind), ElementsAre(Act::kResumeGuest));
    Source offered;
    offered.offered();
    EXPECT_THAT(offered.on(kind), ElementsAre(Act::kReclaim));
    offered.on(Kind::kReclaimed);
    EXPECT_EQ(offered.state(), SourceState::kKept);
    Source running;
    EXPECT_THAT(running.on(kind), ElementsAre());
    EXPECT_EQ(running.state(), SourceState::kKept);
  }
}

TEST(SourceHandover, TheHardDeadlineAbandonsTheAttemptAndAllowsTheNext) {
  Source source;
  source.offered();
  EXPECT_THAT(source.on(Kind::kHardDeadline), ElementsAre(Act::kSendAbort, Act::kReclaim));
  EXPECT_EQ(source.actions()[0].scope, AbortScope::kAttempt);
  EXPECT_EQ(source.actions()[0].attempt, 1u);
  EXPECT_THAT(source.on(Kind::kReclaimed), ElementsAre(Act::kResumeGuest));
  EXPECT_EQ(source.state(), SourceState::kRunning);

  EXPECT_THAT(source.ready(1), ElementsAre()) << "READY of an abandoned attempt came late";
  source.offered();
  EXPECT_EQ(source.machine().attempt(), 2u);
  EXPECT_THAT(source.ready(1), ElementsAre()) << "READY of an abandoned attempt came late";
  EXPECT_EQ(source.state(), SourceState::kOffered);
  EXPECT_THAT(source.ready(2), ElementsAre(Act::kSendCommit));
}

TEST(SourceHandover, AnAttemptsDiscardDoesNotEndTheSession) {
  Source source;
  SourceEvent event;
  event.kind = Kind::kDiscarded;
  event.scope = AbortScope::kAttempt;
  EXPECT_THAT(source.on(event), ElementsAre());
  EXPECT_EQ(source.state(), SourceState::kRunning);
  source.offered().on(Kind::kHardDeadline);
  source.on(Kind::kReclaimed);
  source.offered().ready(2);
  event.attempt = 1;
  for (const AbortScope scope : {AbortScope::kAttempt, AbortScope::kSession}) {
    event.scope = scope;
    EXPECT_THAT(source.on(event), ElementsAre()) << "attempt 1 is not the one that counts";
    EXPECT_EQ(source.state(), SourceState::kCommitted);
  }
  event.attempt = 2;
  EXPECT_THAT(source.on(event), ElementsAre(Act::kReclaim));
}

TEST(SourceHandover, AnImpossibleLeaseEndsTheSessionBeforeCommit) {
  for (const nanoseconds lease :
       {nanoseconds(0), nanoseconds(-1), nanoseconds(std::chrono::hours(2)), nanoseconds::max()}) {
    Source source;
    EXPECT_THAT(source.offered().ready(1, lease), ElementsAre(Act::kSendAbort, Act::kReclaim));
    EXPECT_FALSE(source.machine().committed());
  }
}

TEST(SourceHandover, CancelAfterCommitIsRefusedWherever) {
  Source committed, asking, uncertain;
  for (Source* source : {&committed.committed(), &asking.asking(), &uncertain.uncertain()}) {
    const SourceState before = source->state();
    EXPECT_THAT(source->on(Kind::kCancel), ElementsAre(Act::kRefuse));
    EXPECT_EQ(source->refusal(), Refusal::kTooLate);
    EXPECT_EQ(source->state(), before);
  }
}

TEST(SourceHandover, NothingThatFailsAfterCommitResumesTheGuest) {
  for (const Kind kind : {Kind::kLinkLost, Kind::kFailure, Kind::kHardDeadline}) {
    Source source;
    source.committed().on(kind);
    for (const SourceAction& action : source.actions()) {
      EXPECT_EQ(action.kind, Act::kConnect);
    }
    EXPECT_TRUE(source.state() == SourceState::kAsking ||
                source.state() == SourceState::kCommitted);
  }
}

TEST(SourceHandover, AsksOnEveryNewConnection) {
  Source source;
  EXPECT_THAT(source.committed().on(Kind::kLinkLost), ElementsAre(Act::kConnect));
  EXPECT_THAT(source.on(Kind::kConnected), ElementsAre(Act::kSendAsk));
  EXPECT_THAT(source.on(Kind::kLinkLost), ElementsAre(Act::kConnect));
  EXPECT_THAT(source.on(Kind::kConnected), ElementsAre(Act::kSendAsk));
}

struct AnswerCase {
  const char* name;
  RecordState answer;
  std::uint32_t attempt;
  int boot;
  bool lives;
  SourceState state;
  std::vector<Act> actions;
  bool lost;
};

TEST(SourceHandover, AnswersDecide) {
  const std::vector<Act> release = {Act::kReleaseGuest, Act::kSendReleased};
  const AnswerCase cases[] = {
      {"started", RecordState::kStarted, 1, 1, true, SourceState::kReleased, release, false},
      {"started, gone", RecordState::kStarted, 1, 1, false, SourceState::kReleased, release, true},
      {"starting, gone", RecordState::kStarting, 1, 1, false, SourceState::kReleased, release,
       true},
      {"ready",
       RecordState::kReady,
       1,
       1,
       true,
       SourceState::kCommitted,
       {Act::kSendCommit},
       false},
      {"ready, other attempt", RecordState::kReady, 7, 1, true, SourceState::kAsking, {}, false},
      {"started, other attempt",
       RecordState::kStarted,
       7,
       1,
       true,
       SourceState::kAsking,
       {},
       false},
      {"receiving", RecordState::kReceiving, 1, 1, true, SourceState::kAsking, {}, false},
      {"discarded",
       RecordState::kDiscarded,
       1,
       1,
       false,
       SourceState::kReclaiming,
       {Act::kReclaim},
       false},
      {"discarded, rebooted",
       RecordState::kDiscarded,
       1,
       2,
       false,
       SourceState::kReclaiming,
       {Act::kReclaim},
       false},
      {"unknown", RecordState::kUnknown, 0, 1, false, SourceState::kAsking, {}, false},
      {"rebooted", RecordState::kUnknown, 0, 2, false, SourceState::kUncertain, {}, false},
  };
  for (const AnswerCase& test : cases) {
    Source source;
    EXPECT_EQ(source.asking().answer(test.answer, test.attempt, test.boot, test.lives),
              test.actions)
        << test.name;
    EXPECT_EQ(source.state(), test.state) << test.name;
    EXPECT_EQ(source.machine().lost(), test.lost) << test.name;
  }
}

TEST(SourceHandover, AnswersBeforeCommitMeanNothing) {
  for (const RecordState state : {RecordState::kStarted, RecordState::kReady,
                                  RecordState::kDiscarded, RecordState::kUnknown}) {
    Source source;
    EXPECT_THAT(source.offered().answer(state), ElementsAre());
    EXPECT_EQ(source.state(), SourceState::kOffered);
    EXPECT_THAT(source.started(1), ElementsAre());
  }
}

TEST(SourceHandover, NoAnswerInTheWindowLeavesItUncertainAndPaused) {
  Source source;
  EXPECT_THAT(source.asking().on(Kind::kAskWindowOver), ElementsAre());
  EXPECT_EQ(source.state(), SourceState::kUncertain);
  EXPECT_EQ(source.machine().doubt(), Doubt::kNoAnswer);
  EXPECT_THAT(source.on(Kind::kLinkLost), ElementsAre());
  EXPECT_EQ(source.state(), SourceState::kUncertain);
}

TEST(SourceHandover, ALeaseIsSurelyOverAfterFiveQuartersAndASecondSinceReady) {
  Source source;
  EXPECT_EQ(source.machine().lease_surely_over_at(), std::nullopt);
  source.committed();
  EXPECT_EQ(source.machine().lease_surely_over_at(), kReadyAt + milliseconds(13'500));
}

TEST(SourceHandover, ResumeWithoutAnAnswerNeedsTheLeaseOverAndForce) {
  const nanoseconds over = kReadyAt + milliseconds(13'500);
  struct {
    bool force;
    nanoseconds now;
    Refusal refusal;
  } const cases[] = {
      {false, over - nanoseconds(1), Refusal::kLeaseMayHold},
      {true, over - nanoseconds(1), Refusal::kLeaseMayHold},
      {false, over, Refusal::kNeedsForce},
      {true, over, Refusal::kNone},
  };
  for (const auto& test : cases) {
    Source source;
    EXPECT_THAT(source.uncertain().resolve(Kind::kOperatorResume, test.force),
                ElementsAre(Act::kConnect))
        << "the target is asked first";
    source.window_over(test.now);
    EXPECT_EQ(source.refusal(), test.refusal);
    EXPECT_EQ(source.state(),
              test.refusal == Refusal::kNone ? SourceState::kReclaiming : SourceState::kUncertain);
  }
}

TEST(SourceHandover, ResumeIsRefusedWhenTheTargetStartedAndTheGuestIsReleased) {
  Source source;
  source.uncertain().resolve(Kind::kOperatorResume, true);
  source.on(Kind::kConnected);
  EXPECT_THAT(source.answer(RecordState::kStarted),
              ElementsAre(Act::kRefuse, Act::kReleaseGuest, Act::kSendReleased));
  EXPECT_EQ(source.refusal(), Refusal::kRunsThere);
}

TEST(SourceHandover, ResumeOfAGuestThatStillWaitsThereAsksTheTargetToLetGo) {
  Source source;
  source.uncertain().resolve(Kind::kOperatorResume, false);
  source.on(Kind::kConnected);
  EXPECT_THAT(source.answer(RecordState::kReady), ElementsAre(Act::kSendAbort));
  EXPECT_EQ(source.actions()[0].scope, AbortScope::kSession);
  EXPECT_EQ(source.state(), SourceState::kAsking) << "its word decides";
  EXPECT_THAT(source.on(Kind::kDiscarded), ElementsAre(Act::kReclaim));
}

TEST(SourceHandover, ResumeAfterARebootOfTheTargetNeedsNoForce) {
  Source source;
  source.asking().answer(RecordState::kUnknown, 0, 2, false);
  EXPECT_EQ(source.machine().doubt(), Doubt::kRebooted);
  EXPECT_THAT(source.resolve(Kind::kOperatorResume, false), ElementsAre(Act::kReclaim));
}

TEST(SourceHandover, ReleaseIsForAGuestThatIsThere) {
  Source there;
  there.uncertain().resolve(Kind::kOperatorRelease, false);
  EXPECT_THAT(there.answer(RecordState::kStarted),
              ElementsAre(Act::kReleaseGuest, Act::kSendReleased));

  Source waits;
  waits.uncertain().resolve(Kind::kOperatorRelease, false);
  EXPECT_THAT(waits.answer(RecordState::kReady), ElementsAre(Act::kSendCommit));

  Source dropped;
  dropped.uncertain().resolve(Kind::kOperatorRelease, true);
  EXPECT_THAT(dropped.answer(RecordState::kDiscarded), ElementsAre(Act::kRefuse));
  EXPECT_EQ(dropped.refusal(), Refusal::kOnlyCopyHere);
  EXPECT_EQ(dropped.state(), SourceState::kUncertain);
  EXPECT_THAT(dropped.resolve(Kind::kOperatorResume, false), ElementsAre(Act::kReclaim));

  Source silent;
  silent.uncertain().resolve(Kind::kOperatorRelease, false);
  silent.on(Kind::kAskWindowOver);
  EXPECT_EQ(silent.refusal(), Refusal::kNeedsForce);
  silent.resolve(Kind::kOperatorRelease, true);
  EXPECT_THAT(silent.on(Kind::kAskWindowOver), ElementsAre(Act::kReleaseGuest, Act::kSendReleased));
}

TEST(SourceHandover, AGuestWithoutItsLocksStaysPausedUntilTheyCanBeTaken) {
  Source source;
  source.offered().on(Kind::kCancel);
  EXPECT_THAT(source.on(Kind::kReclaimFailed), ElementsAre(Act::kSendAbort));
  EXPECT_EQ(source.state(), SourceState::kStuck);
  EXPECT_FALSE(source.machine().ended());
  EXPECT_THAT(source.resolve(Kind::kOperatorRelease, true), ElementsAre(Act::kRefuse));
  EXPECT_EQ(source.refusal(), Refusal::kOnlyCopyHere);
  EXPECT_THAT(source.resolve(Kind::kOperatorResume, false), ElementsAre(Act::kReclaim));
  EXPECT_THAT(source.on(Kind::kReclaimed), ElementsAre(Act::kResumeGuest));
  EXPECT_EQ(source.state(), SourceState::kKept);
}

TEST(SourceHandover, AGuestThatDoesNotResumeCanBeTriedAgain) {
  Source source;
  source.on(Kind::kBegin), source.on(Kind::kCancel);
  source.on(Kind::kResumeFailed);
  EXPECT_EQ(source.state(), SourceState::kStuck);
  EXPECT_THAT(source.resolve(Kind::kOperatorResume, false), ElementsAre(Act::kResumeGuest));
}

TEST(SourceHandover, ResolveWhereNothingIsUncertainIsRefused) {
  for (const Kind kind : {Kind::kOperatorResume, Kind::kOperatorRelease}) {
    Source running, committed;
    for (Source* source : {&running, &committed.committed()}) {
      source->resolve(kind, true);
      EXPECT_EQ(source->refusal(), Refusal::kNothingToDo);
    }
  }
}

TEST(SourceHandover, WithAnArbiterEveryResumeAfterCommitGoesThroughIt) {
  Source silent(true);
  EXPECT_THAT(silent.asking().on(Kind::kAskWindowOver), ElementsAre(Act::kAskArbiter));
  Source dropped(true);
  EXPECT_THAT(dropped.asking().answer(RecordState::kDiscarded), ElementsAre(Act::kAskArbiter));
  Source rebooted(true);
  EXPECT_THAT(rebooted.asking().answer(RecordState::kUnknown, 0, 2, false),
              ElementsAre(Act::kAskArbiter));
  EXPECT_THAT(rebooted.on(Kind::kArbiterGranted), ElementsAre(Act::kReclaim));
  Source before(true);
  EXPECT_THAT(before.offered().on(Kind::kCancel), ElementsAre(Act::kSendAbort, Act::kReclaim))
      << "before COMMIT nobody else can own it";
}

TEST(SourceHandover, AnArbiterThatNamesTheTargetOrNobodyLeavesItUncertain) {
  Source denied(true);
  denied.asking().on(Kind::kAskWindowOver);
  denied.on(Kind::kArbiterDenied);
  EXPECT_EQ(denied.state(), SourceState::kUncertain);
  EXPECT_EQ(denied.machine().doubt(), Doubt::kTargetOwns);
  denied.resolve(Kind::kOperatorResume, true), denied.on(Kind::kAskWindowOver);
  denied.on(Kind::kArbiterDenied);
  EXPECT_EQ(denied.refusal(), Refusal::kTargetOwns) << "whatever force";
  denied.resolve(Kind::kOperatorRelease, false);
  EXPECT_THAT(denied.on(Kind::kAskWindowOver), ElementsAre(Act::kReleaseGuest, Act::kSendReleased));

  Source silent(true);
  silent.asking().on(Kind::kAskWindowOver);
  silent.on(Kind::kArbiterUnknown);
  EXPECT_EQ(silent.state(), SourceState::kUncertain);
  EXPECT_EQ(silent.machine().doubt(), Doubt::kArbiterUnknown);
}

TEST(SourceHandover, AGuestGrantedToATargetThatDroppedItComesBackByForceOnly) {
  Source source(true);
  source.asking().answer(RecordState::kDiscarded);
  source.on(Kind::kArbiterDenied);
  EXPECT_THAT(source.resolve(Kind::kOperatorResume, false), ElementsAre(Act::kAskArbiter));
  source.on(Kind::kArbiterDenied);
  EXPECT_EQ(source.refusal(), Refusal::kTargetOwns);
  source.resolve(Kind::kOperatorResume, true);
  EXPECT_THAT(source.on(Kind::kArbiterDenied), ElementsAre(Act::kReclaim));
}

TEST(SourceHandover, TheEndIsTheEnd) {
  Source released, kept;
  released.committed().started(1);
  kept.on(Kind::kCancel);
  for (Source* source : {&released, &kept}) {
    const SourceHandover before = source->machine();
    for (int kind = 0; kind <= static_cast<int>(Kind::kOperatorRelease); ++kind) {
      SourceEvent event;
      event.kind = static_cast<Kind>(kind);
      event.attempt = 1;
      event.lease = kLease;
      event.force = true;
      if (event.kind == Kind::kResumeFailed) continue;  // A result: kKept awaits it.
      for (const Act act : source->on(event)) EXPECT_EQ(act, Act::kRefuse) << to_string(event.kind);
      EXPECT_TRUE(source->machine() == before) << to_string(event.kind);
    }
  }
}

}  // namespace
}  // namespace migrate::session
