// Definitions of BasicSourceHandover. Included by handover.cc, which makes the production machine,
// and by the exploration test, which makes mutants.
#pragma once

#include "session/handover.hpp"

namespace migrate::session {

/// A longer lease is not believed: it would block an operator for as long.
inline constexpr nanoseconds kLeaseMax = std::chrono::hours(1);

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::on(const SourceEvent& event) {
  using Kind = SourceEvent::Kind;
  switch (event.kind) {
    case Kind::kBegin:
      return begin();
    case Kind::kOfferable:
      return offer(event.lazy);
    case Kind::kReady:
      return ready(event);
    case Kind::kStarted:
      return started(event.attempt, true);
    case Kind::kDiscarded:
      return discarded(event);
    case Kind::kAnswer:
      return answered(event);
    case Kind::kLinkLost:
      return link_lost();
    case Kind::kConnected:
      return state_ == SourceState::kAsking ? SourceActions{act(SourceAction::Kind::kSendAsk)}
                                            : SourceActions{};
    case Kind::kAskWindowOver:
      return no_answer(event);
    case Kind::kComplete:
      return state_ == SourceState::kServing ? release(true) : SourceActions{};
    case Kind::kServeWindowOver:
      return serve_window_over();
    case Kind::kHardDeadline:
      return state_ == SourceState::kPaused || state_ == SourceState::kOffered
                 ? abandon(AbortScope::kAttempt, true)
                 : SourceActions{};
    case Kind::kCancel:
      return cancel();
    case Kind::kFailure:
      return committed_ ? link_lost() : abandon(AbortScope::kSession, true);
    case Kind::kArbiterGranted:
      return state_ == SourceState::kClaiming ? reclaim_or_resume() : SourceActions{};
    case Kind::kArbiterDenied:
      return state_ == SourceState::kClaiming ? arbiter_denied() : SourceActions{};
    case Kind::kArbiterUnknown:
      return state_ == SourceState::kClaiming ? arbiter_unknown() : SourceActions{};
    case Kind::kReclaimed:
      if (state_ != SourceState::kReclaiming) return {};
      relinquished_ = false;
      return resume();
    case Kind::kReclaimFailed:
      return state_ == SourceState::kReclaiming ? stuck() : SourceActions{};
    case Kind::kResumeFailed:
      return state_ == SourceState::kRunning || state_ == SourceState::kKept ? stuck()
                                                                             : SourceActions{};
    case Kind::kOperatorResume:
      return operator_resume(event.force);
    case Kind::kOperatorRelease:
      return operator_release(event.force);
  }
  return {};
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::begin() {
  if (state_ != SourceState::kRunning) return {};
  ++attempt_;
  state_ = SourceState::kPaused;
  return {act(SourceAction::Kind::kPauseGuest)};
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::offer(bool lazy) {
  if (state_ != SourceState::kPaused) return {};
  state_ = SourceState::kOffered;
  lazy_ = lazy;
  // From here on the locks count as gone: should letting go fail halfway, reclaim() mends it.
  relinquished_ = true;
  return {act(SourceAction::Kind::kRelinquish), act(SourceAction::Kind::kSendOffer)};
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::ready(const SourceEvent& event) {
  if (state_ != SourceState::kOffered) return {};
  // A READY of an abandoned attempt may still be under way: the target no longer stands by it.
  if (!demand(Rule::kReadyOfThisAttempt, event.attempt == attempt_)) return {};
  if (event.lease <= nanoseconds::zero() || event.lease > kLeaseMax) {
    return abandon(AbortScope::kSession, true);
  }
  committed_ = true;
  state_ = SourceState::kCommitted;
  ready_at_ = event.now;
  lease_ = event.lease;
  return {act(SourceAction::Kind::kSendCommit)};
}

template <typename Rules>
bool BasicSourceHandover<Rules>::awaits_word() const {
  return committed_ && (state_ == SourceState::kCommitted || state_ == SourceState::kAsking ||
                        state_ == SourceState::kServing || state_ == SourceState::kUncertain ||
                        state_ == SourceState::kClaiming || state_ == SourceState::kStuck);
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::started(std::uint32_t attempt, bool lives) {
  if (!awaits_word() || attempt != attempt_) return {};
  // What it still misses went with a process that is gone: only a guest that lives needs the pages.
  if (lives && lazy_ && enforces(Rule::kServeUntilComplete)) return serve();
  return release(lives);
}

/// The guest's memory stays until the target has it all, however long the link is lost.
template <typename Rules>
SourceActions BasicSourceHandover<Rules>::serve() {
  const bool refused = wish_ == Wish::kResume;
  state_ = SourceState::kServing;
  // The doubt is over, and with it what an operator wanted of it.
  doubt_ = Doubt::kNone;
  wish_ = Wish::kNone;
  force_ = false;
  return refused ? SourceActions{refuse(Refusal::kRunsThere)} : SourceActions{};
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::release(bool lives) {
  state_ = SourceState::kReleased;
  lost_ = !lives;
  SourceActions actions;
  if (wish_ == Wish::kResume) actions.push(refuse(Refusal::kRunsThere));
  actions.push(act(SourceAction::Kind::kReleaseGuest));
  actions.push(act(SourceAction::Kind::kSendReleased));
  return actions;
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::discarded(const SourceEvent& event) {
  // Of an attempt: its locks are free again, which kReclaim finds out by itself. It may come late,
  // when COMMIT of a later attempt is sent, and must not be taken for the end of that one.
  const bool for_good =
      event.scope == AbortScope::kSession && (!committed_ || event.attempt == attempt_);
  if (!demand(Rule::kDiscardedForGood, for_good)) return {};
  return committed_ ? target_dropped_it() : abandon(AbortScope::kSession, false);
}

/// After COMMIT the target said that nothing ran there and nothing will.
template <typename Rules>
SourceActions BasicSourceHandover<Rules>::target_dropped_it() {
  // STARTED was said before: whoever says this now does not know, or lies.
  if (!awaits_word() || owes_pages()) return {};
  discarded_ = true;
  if (state_ == SourceState::kClaiming || state_ == SourceState::kStuck) return {};
  if (wish_ == Wish::kRelease) return stay(Doubt::kDiscarded, Refusal::kOnlyCopyHere);
  return claim_or_resume();
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::answered(const SourceEvent& event) {
  if (!awaits_word()) return {};
  const Answer& answer = event.answer;
  if (answer.boot != target_boot_) rebooted_ = true;
  switch (answer.state) {
    case RecordState::kStarting:
    case RecordState::kStarted:
      return started(answer.attempt, answer.process_lives);
    case RecordState::kReady:
      if (answer.attempt != attempt_) return {};
      return enforces(Rule::kReadyIsNotStarted) ? target_is_ready() : started(answer.attempt, true);
    case RecordState::kDiscarded:
    case RecordState::kWithdrawn:
      return target_dropped_it();
    case RecordState::kReceiving:
      // Not an answer to COMMIT: a target that was ready for it does not go back.
      return {};
    case RecordState::kUnknown:
      return no_record();
  }
  return {};
}

/// The target waits for a COMMIT that got lost.
template <typename Rules>
SourceActions BasicSourceHandover<Rules>::target_is_ready() {
  if (state_ != SourceState::kAsking) return {};
  if (wish_ != Wish::kResume) {
    state_ = SourceState::kCommitted;
    return {act(SourceAction::Kind::kSendCommit)};
  }
  if (has_arbiter_) return claim_or_resume();
  // The operator wants it back and the target has not started: ask it to let go, wait for its word.
  return {act(SourceAction::Kind::kSendAbort)};
}

/// Somebody answers on that host and knows nothing of the session.
template <typename Rules>
SourceActions BasicSourceHandover<Rules>::no_record() {
  if (state_ != SourceState::kAsking && state_ != SourceState::kCommitted) return {};
  if (!rebooted_) {
    return enforces(Rule::kUnknownIsNoAnswer) ? SourceActions{} : claim_or_resume();
  }
  // The guest is not there any more, but whether it ran cannot be known from here. An arbiter
  // knows: what was never granted never ran.
  if (wish_ == Wish::kRelease) {
    if (!force_) return stay(Doubt::kRebooted, Refusal::kNeedsForce);
    return started(attempt_, false);
  }
  if (has_arbiter_ || wish_ == Wish::kResume) return claim_or_resume();
  return enforces(Rule::kRebootIsForOperator) ? stay(Doubt::kRebooted, Refusal::kNone)
                                              : claim_or_resume();
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::link_lost() {
  if (!committed_) return abandon(AbortScope::kSession, false);
  if (state_ != SourceState::kCommitted && state_ != SourceState::kAsking) return {};
  if (!enforces(Rule::kAskBeforeResume)) return claim_or_resume();
  state_ = SourceState::kAsking;
  return {act(SourceAction::Kind::kConnect)};
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::cancel() {
  switch (state_) {
    case SourceState::kReleased:
    case SourceState::kKept:
      return {};
    default:
      if (committed_ && enforces(Rule::kNoCancelAfterCommit)) return {refuse(Refusal::kTooLate)};
      return abandon(AbortScope::kSession, true);
  }
}

/// Before COMMIT: ends the attempt or the session and lets the guest go on.
template <typename Rules>
SourceActions BasicSourceHandover<Rules>::abandon(AbortScope scope, bool tell) {
  SourceAction abort = act(SourceAction::Kind::kSendAbort);
  abort.scope = scope;
  SourceActions actions;
  switch (state_) {
    case SourceState::kReleased:
    case SourceState::kKept:
      return {};
    case SourceState::kRunning:
      state_ = SourceState::kKept;
      if (tell) actions.push(abort);
      return actions;
    case SourceState::kReclaiming:
    case SourceState::kStuck:
      next_ = SourceState::kKept;
      if (tell) actions.push(abort);
      return actions;
    default:
      break;
  }
  next_ = scope == AbortScope::kAttempt ? SourceState::kRunning : SourceState::kKept;
  if (relinquished_) {
    // The target may hold the locks: it lets go of them when it is told.
    if (tell) actions.push(abort);
    actions.push(act(SourceAction::Kind::kReclaim));
    state_ = SourceState::kReclaiming;
    return actions;
  }
  // Nobody else can hold anything: the guest goes first.
  actions = resume();
  if (tell) actions.push(abort);
  return actions;
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::claim_or_resume() {
  if (!has_arbiter_ || !enforces(Rule::kArbiterBeforeResume)) return reclaim_or_resume();
  state_ = SourceState::kClaiming;
  return {act(SourceAction::Kind::kAskArbiter)};
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::arbiter_denied() {
  target_owns_ = true;
  // A target that was granted the guest and then dropped it leaves it to nobody. Its own word that
  // nothing ran there, and the operator's, together outweigh the arbiter's.
  if (discarded_ && wish_ == Wish::kResume && force_) return reclaim_or_resume();
  return stay(Doubt::kTargetOwns, wish_ == Wish::kResume ? Refusal::kTargetOwns : Refusal::kNone);
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::arbiter_unknown() {
  if (!enforces(Rule::kArbiterUnknownIsNo)) return reclaim_or_resume();
  return stay(Doubt::kArbiterUnknown,
              wish_ == Wish::kResume ? Refusal::kArbiterUnknown : Refusal::kNone);
}

/// After COMMIT, and the guest is ours again.
template <typename Rules>
SourceActions BasicSourceHandover<Rules>::reclaim_or_resume() {
  next_ = SourceState::kKept;
  if (!relinquished_) return resume();
  state_ = SourceState::kReclaiming;
  return {act(SourceAction::Kind::kReclaim)};
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::resume() {
  state_ = next_;
  return {act(SourceAction::Kind::kResumeGuest)};
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::stuck() {
  state_ = SourceState::kStuck;
  next_ = SourceState::kKept;
  return committed_ ? SourceActions{} : SourceActions{act(SourceAction::Kind::kSendAbort)};
}

template <typename Rules>
SourceAction BasicSourceHandover<Rules>::act(SourceAction::Kind kind) const {
  SourceAction action;
  action.kind = kind;
  action.attempt = attempt_;
  return action;
}

template <typename Rules>
SourceAction BasicSourceHandover<Rules>::refuse(Refusal refusal) {
  SourceAction action;
  action.kind = SourceAction::Kind::kRefuse;
  action.refusal = refusal;
  return action;
}

}  // namespace migrate::session
