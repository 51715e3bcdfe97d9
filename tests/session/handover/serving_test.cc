// The source's machine when the guest's memory follows after its start. What follows from all
// interleavings is in exploration_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/session/handover/source_machine.hpp"

namespace migrate::session {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Kind = SourceEvent::Kind;
using Act = SourceAction::Kind;

TEST(ServingSource, KeepsTheMemoryUntilTheTargetHasIt) {
  Source source;
  EXPECT_THAT(source.committed(true).started(1), IsEmpty());
  EXPECT_EQ(source.state(), SourceState::kServing);
  EXPECT_TRUE(source.machine().owes_pages());
  EXPECT_FALSE(source.machine().ended());
  EXPECT_THAT(source.on(Kind::kComplete), ElementsAre(Act::kReleaseGuest, Act::kSendReleased));
  EXPECT_EQ(source.state(), SourceState::kReleased);
  EXPECT_FALSE(source.machine().lost());
  EXPECT_FALSE(source.machine().owes_pages());
}

TEST(ServingSource, EveryWordThatItRunsThereLeadsToServing) {
  Source answered;
  answered.committed(true).on(Kind::kLinkLost);
  answered.on(Kind::kConnected);
  EXPECT_THAT(answered.answer(RecordState::kStarted), IsEmpty());
  EXPECT_EQ(answered.state(), SourceState::kServing);

  Source starting;
  starting.committed(true).on(Kind::kLinkLost);
  EXPECT_THAT(starting.answer(RecordState::kStarting), IsEmpty());
  EXPECT_EQ(starting.state(), SourceState::kServing);

  Source late;
  late.committed(true).on(Kind::kLinkLost);
  late.on(Kind::kAskWindowOver);
  EXPECT_EQ(late.state(), SourceState::kUncertain);
  EXPECT_THAT(late.started(1), IsEmpty());
  EXPECT_EQ(late.state(), SourceState::kServing);
  EXPECT_EQ(late.machine().doubt(), Doubt::kNone) << "it is over";
}

TEST(ServingSource, LazyIsTheAttemptNotTheSession) {
  Source source;
  source.offered(true).on(Kind::kHardDeadline);
  source.on(Kind::kReclaimed);
  ASSERT_EQ(source.state(), SourceState::kRunning);
  source.offered(false).ready(2);
  EXPECT_THAT(source.started(2), ElementsAre(Act::kReleaseGuest, Act::kSendReleased));
}

TEST(ServingSource, BeforeCommitNothingIsDifferent) {
  Source source;
  EXPECT_THAT(source.offered(true).on(Kind::kFailure), ElementsAre(Act::kSendAbort, Act::kReclaim));
  EXPECT_THAT(source.on(Kind::kReclaimed), ElementsAre(Act::kResumeGuest));
  EXPECT_EQ(source.state(), SourceState::kKept);
}

TEST(ServingSource, ATargetThatDiscardedALazyAttemptGivesTheGuestBack) {
  Source source;
  source.committed(true).on(Kind::kLinkLost);
  EXPECT_THAT(source.answer(RecordState::kDiscarded), ElementsAre(Act::kReclaim));
  EXPECT_THAT(source.on(Kind::kReclaimed), ElementsAre(Act::kResumeGuest));
}

TEST(ServingSource, NothingButCompleteEndsIt) {
  Source source;
  source.serving();
  const SourceHandover before = source.machine();
  for (int kind = 0; kind <= static_cast<int>(Kind::kOperatorRelease); ++kind) {
    SourceEvent event;
    event.kind = static_cast<Kind>(kind);
    event.attempt = 1;
    event.lease = kLease;
    event.force = true;
    event.answer = {RecordState::kDiscarded, 1, boot(1), true};
    if (event.kind == Kind::kComplete || event.kind == Kind::kServeWindowOver) continue;
    for (const Act act : source.on(event)) EXPECT_EQ(act, Act::kRefuse) << to_string(event.kind);
    EXPECT_TRUE(source.machine() == before) << to_string(event.kind);
  }
  EXPECT_THAT(source.on(Kind::kCancel), ElementsAre(Act::kRefuse));
  EXPECT_EQ(source.refusal(), Refusal::kTooLate);
}

TEST(ServingSource, CompleteMeansNothingElsewhere) {
  Source running, offered, committed, asking, owing;
  offered.offered(true);
  committed.committed(true);
  asking.committed(true).on(Kind::kLinkLost);
  owing.owing();
  for (Source* source : {&running, &offered, &committed, &asking, &owing}) {
    const SourceHandover before = source->machine();
    EXPECT_THAT(source->on(Kind::kComplete), IsEmpty());
    EXPECT_TRUE(source->machine() == before) << to_string(before.state());
  }
}

TEST(ServingSource, AGuestThatIsGoneThereNeedsNoPages) {
  for (const RecordState state : {RecordState::kStarting, RecordState::kStarted}) {
    Source serving, owing;
    serving.serving();
    owing.owing();
    for (Source* source : {&serving, &owing}) {
      EXPECT_THAT(source->answer(state, 1, 1, false),
                  ElementsAre(Act::kReleaseGuest, Act::kSendReleased));
      EXPECT_TRUE(source->machine().lost());
    }
  }
}

TEST(ServingSource, AHostWithoutARecordIsNotBelieved) {
  Source source;
  for (const int boot_number : {1, 2}) {
    EXPECT_THAT(source.serving().answer(RecordState::kUnknown, 0, boot_number, false), IsEmpty());
    EXPECT_EQ(source.state(), SourceState::kServing) << "another machine may have its address";
  }
}

TEST(ServingSource, ATargetOutOfReachLeavesThePagesToTheOperator) {
  Source source;
  EXPECT_THAT(source.serving().on(Kind::kServeWindowOver), IsEmpty());
  EXPECT_EQ(source.state(), SourceState::kUncertain);
  EXPECT_EQ(source.machine().doubt(), Doubt::kPagesOwed);
  for (const bool force : {false, true}) {
    EXPECT_THAT(source.resolve(Kind::kOperatorResume, force), ElementsAre(Act::kRefuse));
    EXPECT_EQ(source.refusal(), Refusal::kRunsThere);
  }
  EXPECT_THAT(source.resolve(Kind::kOperatorRelease, false), ElementsAre(Act::kRefuse));
  EXPECT_EQ(source.refusal(), Refusal::kPagesOwed);
  EXPECT_EQ(source.machine().doubt(), Doubt::kPagesOwed);
  EXPECT_THAT(source.resolve(Kind::kOperatorRelease, true),
              ElementsAre(Act::kReleaseGuest, Act::kSendReleased));
  EXPECT_EQ(source.state(), SourceState::kReleased);
}

TEST(ServingSource, ATargetThatIsReachedAgainIsServedOn) {
  Source source;
  EXPECT_THAT(source.owing().started(1), IsEmpty());
  EXPECT_EQ(source.state(), SourceState::kServing);
  EXPECT_THAT(source.on(Kind::kComplete), ElementsAre(Act::kReleaseGuest, Act::kSendReleased));
}

TEST(ServingSource, WhatIsOwedIsNotTakenBackByALateDiscarded) {
  Source source;
  EXPECT_THAT(source.owing().on(Kind::kDiscarded), IsEmpty());
  EXPECT_THAT(source.answer(RecordState::kDiscarded), IsEmpty());
  EXPECT_EQ(source.machine().doubt(), Doubt::kPagesOwed);
}

TEST(ServingSource, AnOperatorWhoAsksForTheGuestHearsThatItRunsThere) {
  Source source;
  source.committed(true).on(Kind::kLinkLost);
  source.on(Kind::kAskWindowOver);
  source.resolve(Kind::kOperatorResume, true);
  source.on(Kind::kConnected);
  EXPECT_THAT(source.answer(RecordState::kStarted), ElementsAre(Act::kRefuse));
  EXPECT_EQ(source.refusal(), Refusal::kRunsThere);
  EXPECT_EQ(source.state(), SourceState::kServing);
}

TEST(ServingSource, AnArbiterThatNamesTheTargetDoesNotFreeThePages) {
  Source source(true);
  source.committed(true).on(Kind::kLinkLost);
  source.on(Kind::kAskWindowOver);
  source.on(Kind::kArbiterDenied);
  source.resolve(Kind::kOperatorRelease, false);
  EXPECT_THAT(source.on(Kind::kAskWindowOver), ElementsAre(Act::kRefuse));
  EXPECT_EQ(source.refusal(), Refusal::kPagesOwed);
  source.resolve(Kind::kOperatorRelease, true);
  EXPECT_THAT(source.on(Kind::kAskWindowOver), ElementsAre(Act::kReleaseGuest, Act::kSendReleased));
}

}  // namespace
}  // namespace migrate::session
