// Definitions of BasicTargetHandover. Included by handover.cc, which makes the production machine,
// and by the exploration test, which makes mutants.
#pragma once

#include "session/handover.hpp"

namespace migrate::session {

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::on(const TargetEvent& event) {
  using Kind = TargetEvent::Kind;
  // The lease is looked at before anything else, so no event finds a READY that no longer holds.
  if (state_ == TargetState::kReady && event.now >= lease_end_ &&
      (event.kind != Kind::kCommit || enforces(Rule::kCommitInLease))) {
    return discard(TargetState::kDiscarded);
  }
  switch (event.kind) {
    case Kind::kOffer:
      return offer(event.attempt);
    case Kind::kLoaded:
      return loaded(event);
    case Kind::kLoadFailed:
      return state_ == TargetState::kLoading && event.attempt == attempt_ ? give_up()
                                                                          : TargetActions{};
    case Kind::kCommit:
      return commit(event.attempt);
    case Kind::kAbort:
      return abort(event);
    case Kind::kAsk:
      if (!before_commit() && state_ != TargetState::kClaiming) return tell_end();
      return {act(TargetAction::Kind::kSendAnswer)};
    case Kind::kLinkLost:
      // A READY stands until its lease ends: the source may have sent COMMIT, and will reconnect.
      return state_ == TargetState::kReady ? TargetActions{} : give_up();
    case Kind::kTick:
      return {};
    case Kind::kCancel:
    case Kind::kFailure:
      return give_up();
    case Kind::kRecordFailed:
      return record_failed();
    case Kind::kArbiterGranted:
    case Kind::kArbiterDenied:
    case Kind::kArbiterUnknown:
      return state_ == TargetState::kClaiming ? claimed(event.kind) : TargetActions{};
    case Kind::kStartCheck:
      return state_ == TargetState::kStarting ? start_check(event.now) : TargetActions{};
    case Kind::kGuestStarted:
    case Kind::kStartFailed:
    case Kind::kStartUnsure:
      return state_ == TargetState::kLaunched ? start_result(event.kind) : TargetActions{};
  }
  return {};
}

template <typename Rules>
bool BasicTargetHandover<Rules>::before_commit() const {
  return state_ == TargetState::kReceiving || state_ == TargetState::kLoading ||
         state_ == TargetState::kReady;
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::offer(std::uint32_t attempt) {
  if (!before_commit()) return tell_end();
  if (attempt <= attempt_) return {};  // Of an attempt that was abandoned meanwhile.
  attempt_ = attempt;
  // A newer offer says that the source has abandoned what this side was ready for.
  TargetActions actions = leave_ready();
  state_ = TargetState::kLoading;
  actions.push(act(TargetAction::Kind::kLoad));
  return actions;
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::loaded(const TargetEvent& event) {
  if (state_ != TargetState::kReceiving && state_ != TargetState::kLoading) return {};
  if (state_ == TargetState::kReceiving || event.attempt != attempt_) {
    return {act(TargetAction::Kind::kYield)};  // Abandoned while it was loaded.
  }
  state_ = TargetState::kReady;
  lease_end_ = event.now + lease_;
  return {record(), act(TargetAction::Kind::kSendReady)};
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::commit(std::uint32_t attempt) {
  if (state_ != TargetState::kReady) return tell_end();
  if (!demand(Rule::kCommitOfThisAttempt, attempt == attempt_)) return {};
  if (!has_arbiter_ || !enforces(Rule::kArbiterBeforeStart)) return record_starting();
  state_ = TargetState::kClaiming;
  return {act(TargetAction::Kind::kAskArbiter)};
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::claimed(TargetEvent::Kind result) {
  if (result == TargetEvent::Kind::kArbiterDenied) return discard(TargetState::kDiscarded);
  if (result == TargetEvent::Kind::kArbiterGranted || !enforces(Rule::kArbiterUnknownIsNo)) {
    return record_starting();
  }
  // It may have been granted: dropping the guest now could leave it to nobody.
  TargetAction again = act(TargetAction::Kind::kAskArbiter);
  again.repeat = true;
  return {again};
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::record_starting() {
  state_ = TargetState::kStarting;
  if (!enforces(Rule::kStartingRecordedFirst)) return {act(TargetAction::Kind::kCheckStart)};
  return {record(), act(TargetAction::Kind::kCheckStart)};
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::start_check(nanoseconds now) {
  // What an arbiter granted cannot be taken back by the source, so it needs no lease.
  if (!has_arbiter_ && !demand(Rule::kStartInLease, now < lease_end_)) {
    return discard(TargetState::kWithdrawn);
  }
  state_ = TargetState::kLaunched;
  lease_end_ = nanoseconds::zero();
  return {act(TargetAction::Kind::kStartGuest)};
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::start_result(TargetEvent::Kind result) {
  if (result == TargetEvent::Kind::kStartFailed) return discard(TargetState::kWithdrawn);
  if (result == TargetEvent::Kind::kStartUnsure) {
    state_ = TargetState::kLost;
    return {act(TargetAction::Kind::kYield), act(TargetAction::Kind::kSendAnswer),
            act(TargetAction::Kind::kDiscardGuest)};
  }
  state_ = TargetState::kStarted;
  return {record(), act(TargetAction::Kind::kSendStarted)};
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::abort(const TargetEvent& event) {
  if (event.scope == AbortScope::kSession) {
    if (before_commit()) return discard(TargetState::kDiscarded);
    if (committed() && !enforces(Rule::kStartedIsFinal)) return discard(TargetState::kDiscarded);
    return tell_end();
  }
  return abandon_attempt(event.attempt);
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::abandon_attempt(std::uint32_t attempt) {
  if (!before_commit() || attempt < attempt_) return {};
  attempt_ = attempt;
  TargetActions actions = leave_ready();
  state_ = TargetState::kReceiving;
  TargetAction dropped = act(TargetAction::Kind::kSendDiscarded);
  dropped.scope = AbortScope::kAttempt;
  actions.push(dropped);
  return actions;
}

/// The attempt is abandoned: lets go of the locks, and of READY in the journal.
template <typename Rules>
TargetActions BasicTargetHandover<Rules>::leave_ready() {
  if (state_ != TargetState::kReady) return {};
  state_ = TargetState::kReceiving;
  lease_end_ = nanoseconds::zero();
  if (!enforces(Rule::kAbandonedIsRecorded)) return {act(TargetAction::Kind::kYield)};
  return {act(TargetAction::Kind::kYield), record()};
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::give_up() {
  return before_commit() ? discard(TargetState::kDiscarded) : TargetActions{};
}

template <typename Rules>
TargetActions BasicTargetHandover<Rules>::record_failed() {
  if (state_ == TargetState::kReady) return discard(TargetState::kDiscarded);
  if (state_ == TargetState::kStarting) return discard(TargetState::kWithdrawn);
  return {};
}

/// Drops the guest, which has not run. Locks first, and the record before the word: the source may
/// take the guest back as soon as it hears.
template <typename Rules>
TargetActions BasicTargetHandover<Rules>::discard(TargetState end) {
  const bool holds_locks = state_ != TargetState::kReceiving && state_ != TargetState::kLoading;
  state_ = end;
  lease_end_ = nanoseconds::zero();
  TargetActions actions;
  if (holds_locks) actions.push(act(TargetAction::Kind::kYield));
  actions.push(record());
  actions.push(act(TargetAction::Kind::kSendDiscarded));
  actions.push(act(TargetAction::Kind::kDiscardGuest));
  return actions;
}

/// To a source that may not have heard how it ended.
template <typename Rules>
TargetActions BasicTargetHandover<Rules>::tell_end() const {
  switch (state_) {
    case TargetState::kStarted:
      return {act(TargetAction::Kind::kSendStarted)};
    case TargetState::kDiscarded:
    case TargetState::kWithdrawn:
      return {act(TargetAction::Kind::kSendDiscarded)};
    case TargetState::kLost:
      return {act(TargetAction::Kind::kSendAnswer)};
    default:
      // In kStarting and kLaunched the result comes at once and is sent then. Nobody is told
      // STARTING by a living process: the source would release a guest that may be withdrawn.
      return {};
  }
}

template <typename Rules>
std::optional<nanoseconds> BasicTargetHandover<Rules>::deadline() const {
  if (state_ != TargetState::kReady) return std::nullopt;
  return lease_end_;
}

template <typename Rules>
RecordState BasicTargetHandover<Rules>::record_state() const {
  switch (state_) {
    case TargetState::kReceiving:
    case TargetState::kLoading:
      return RecordState::kReceiving;
    case TargetState::kReady:
    case TargetState::kClaiming:
      return RecordState::kReady;
    case TargetState::kStarting:
    case TargetState::kLaunched:
    case TargetState::kLost:
      return RecordState::kStarting;
    case TargetState::kStarted:
      return RecordState::kStarted;
    case TargetState::kDiscarded:
      return RecordState::kDiscarded;
    case TargetState::kWithdrawn:
      return RecordState::kWithdrawn;
  }
  return RecordState::kUnknown;
}

template <typename Rules>
TargetAction BasicTargetHandover<Rules>::act(TargetAction::Kind kind) const {
  TargetAction action;
  action.kind = kind;
  action.attempt = attempt_;
  if (kind == TargetAction::Kind::kSendReady) action.lease = lease_;
  if (kind == TargetAction::Kind::kSendAnswer) {
    action.answer = {record_state(), attempt_, boot_, state_ != TargetState::kLost};
    // To the source both mean the same: nothing ran here and nothing will.
    if (action.answer.state == RecordState::kWithdrawn) {
      action.answer.state = RecordState::kDiscarded;
    }
  }
  return action;
}

template <typename Rules>
TargetAction BasicTargetHandover<Rules>::record() const {
  TargetAction action = act(TargetAction::Kind::kRecord);
  action.state = record_state();
  action.lease_end = lease_end_;
  return action;
}

}  // namespace migrate::session
