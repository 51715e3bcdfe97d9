// World: what a step leads to, and what it breaks. Included by world.hpp.
#pragma once

#include "tests/session/handover/world.hpp"

namespace migrate::session::model {

template <typename Rules>
World<Rules> World<Rules>::after(const Step& step) const {
  World next = *this;
  switch (step.kind) {
    case Step::Kind::kSourceEvent:
      next.source_event(step);
      break;
    case Step::Kind::kSourceReceives:
      next.source_receives(step.argument);
      break;
    case Step::Kind::kSourcePerforms:
      next.source_performs(static_cast<Step::Outcome>(step.argument));
      break;
    case Step::Kind::kSourceDies:
      next.source_lives_ = next.source_runs_ = next.source_locks_ = false;
      next.source_todo_ = {}, next.source_done_ = 0;
      break;
    case Step::Kind::kTargetEvent:
      next.target_event(step);
      break;
    case Step::Kind::kTargetLoaded:
    case Step::Kind::kTargetLoadFails:
      next.target_load_ends(step.argument, step.kind == Step::Kind::kTargetLoaded);
      break;
    case Step::Kind::kTargetReceives:
      next.target_receives(step.argument);
      break;
    case Step::Kind::kTargetPerforms:
      next.target_performs(static_cast<Step::Outcome>(step.argument));
      next.go_on_at_target();
      break;
    case Step::Kind::kTargetDies:
      next.target_dies();
      break;
    case Step::Kind::kHostReboots:
      next.target_dies();
      next.boot_ = 1;
      next.journal_ = static_cast<RecordState>(step.argument);
      break;
    case Step::Kind::kListenerAsked:
      next.listener_asked(step.argument == 0);
      break;
    case Step::Kind::kStrayCommit:
      next.target_receives(bit_of(Message::kCommit, step.argument));
      break;
    case Step::Kind::kTick:
      ++next.ticks_;
      break;
    case Step::Kind::kPagesArrive:
      next.pages_here_ = true;
      break;
    case Step::Kind::kTargetTells:
      next.send(Message::kComplete, next.target_.attempt());
      break;
    case Step::Kind::kSourceReopens:
      next.send(Message::kAsk);
      break;
  }
  if (settled() && !(next.source_ == source_ && next.target_ == target_)) {
    next.breach(Violation::kEndNotFinal);
  }
  next.check();
  return next;
}

// ---- Source ---------------------------------------------------------------------------------

template <typename Rules>
void World<Rules>::feed(SourceEvent event) {
  event.now = source_now();
  source_todo_ = source_.on(event);
  source_done_ = 0;
  // What can go only one way goes at once. To die in between makes no difference that a message
  // which never arrives does not make.
  while (!source_idle() && !has_outcomes(source_todo_[source_done_].kind)) {
    source_performs(Step::kWorks);
  }
}

template <typename Rules>
void World<Rules>::source_event(const Step& step) {
  SourceEvent event;
  event.kind = static_cast<SourceEvent::Kind>(step.argument);
  event.force = step.force;
  event.lazy = lazy_;
  const bool resume = event.kind == SourceEvent::Kind::kOperatorResume;
  // Of a guest that is stuck it was decided before that it is the source's.
  const bool decided = resume && source_.state() == SourceState::kStuck;
  if (decided) operator_resumes_ = true;
  if (!decided && (resume || event.kind == SourceEvent::Kind::kOperatorRelease)) {
    operator_resumes_ = resume;
    forces_ = step.force;
  }
  feed(event);
}

template <typename Rules>
void World<Rules>::source_receives(int bit) {
  const Message message = message_of(bit);
  SourceEvent event;
  event.attempt = attempt_of(bit);
  event.lease = kLease;
  Answer& answer = event.answer;
  answer.attempt = event.attempt;
  // Only "no record" is ever said by another boot of the host than the first: nothing else it could
  // say depends on the boot. The last boot that answered is the one that is up.
  answer.boot = boot_number(message == Message::kAnswerUnknown && event.attempt == 1 ? 1 : 0);
  const auto says = [&](RecordState state, bool lives) {
    event.kind = SourceEvent::Kind::kAnswer;
    answer.state = state;
    answer.process_lives = lives;
  };
  switch (message) {
    case Message::kReady:
      event.kind = SourceEvent::Kind::kReady;
      break;
    case Message::kStarted:
      event.kind = SourceEvent::Kind::kStarted;
      break;
    case Message::kDiscarded:
    case Message::kDiscardedAttempt:
      event.kind = SourceEvent::Kind::kDiscarded;
      event.scope = message == Message::kDiscarded ? AbortScope::kSession : AbortScope::kAttempt;
      break;
    case Message::kAnswerReceiving:
      says(RecordState::kReceiving, true);
      break;
    case Message::kAnswerReady:
      says(RecordState::kReady, true);
      break;
    case Message::kAnswerStartedGone:
      says(RecordState::kStarted, false);
      break;
    case Message::kAnswerStartingGone:
      says(RecordState::kStarting, false);
      break;
    case Message::kAnswerUnknown:
      says(RecordState::kUnknown, false);
      break;
    case Message::kComplete:
      event.kind = SourceEvent::Kind::kComplete;
      break;
    default:
      MIGRATE_CHECK(false);
  }
  feed(event);
}

template <typename Rules>
void World<Rules>::source_performs(Step::Outcome outcome) {
  using Kind = SourceAction::Kind;
  const SourceAction action = source_todo_[source_done_++];
  SourceEvent result;
  switch (action.kind) {
    case Kind::kPauseGuest:
      source_runs_ = false;
      return;
    case Kind::kRelinquish:
      source_locks_ = false;
      return;
    case Kind::kSendOffer:
      return send(Message::kOffer, action.attempt);
    case Kind::kSendCommit:
      return send(Message::kCommit, action.attempt);
    case Kind::kSendAbort:
      return action.scope == AbortScope::kAttempt ? send(Message::kAbortAttempt, action.attempt)
                                                  : send(Message::kAbortSession);
    case Kind::kSendAsk:
      return send(Message::kAsk);
    case Kind::kAskArbiter: {
      const bool granted = outcome != Step::kUnknown && acquire(Side::kSource);
      result.kind = outcome != Step::kWorks ? SourceEvent::Kind::kArbiterUnknown
                    : granted               ? SourceEvent::Kind::kArbiterGranted
                                            : SourceEvent::Kind::kArbiterDenied;
      return feed(result);
    }
    case Kind::kReclaim:
      source_locks_ = outcome == Step::kWorks;
      result.kind =
          source_locks_ ? SourceEvent::Kind::kReclaimed : SourceEvent::Kind::kReclaimFailed;
      return feed(result);
    case Kind::kResumeGuest:
      if (outcome == Step::kFails) {
        result.kind = SourceEvent::Kind::kResumeFailed;
        return feed(result);
      }
      if (!source_locks_) breach(Violation::kStartWithoutLocks);
      if (target_runs_) breach(Violation::kTwoRun);
      // After a reboot whether to go on from an older state is the operator's to say.
      if (target_ran_ && !(operator_resumes_ && (forces_ || boot_ != 0))) {
        breach(Violation::kSplitHistory);
      }
      // Not even an operator: the source knew that it ran there.
      if (heard_started_) breach(Violation::kSplitHistory);
      source_runs_ = true;
      stale_up_to_ = static_cast<std::uint8_t>(source_.attempt());
      return;
    case Kind::kReleaseGuest:
      source_runs_ = source_locks_ = false;
      return;
    case Kind::kConnect:
    case Kind::kSendReleased:
    case Kind::kRefuse:
      return;
  }
}

// ---- Target ---------------------------------------------------------------------------------

template <typename Rules>
void World<Rules>::feed(TargetEvent event) {
  event.now = target_now();
  const bool lease_over = target_.deadline() && event.now >= *target_.deadline();
  target_todo_ = target_.on(event);
  target_done_ = 0;
  if (lease_over && target_.state() == TargetState::kStarting) breach(Violation::kLateStarting);
  go_on_at_target();
}

/// What can go only one way goes at once, but for what a death may come before: records, the start.
template <typename Rules>
void World<Rules>::go_on_at_target() {
  while (!target_idle() && !has_outcomes(target_todo_[target_done_].kind)) {
    target_performs(Step::kWorks);
  }
}

template <typename Rules>
void World<Rules>::target_event(const Step& step) {
  TargetEvent event;
  event.kind = static_cast<TargetEvent::Kind>(step.argument);
  feed(event);
}

template <typename Rules>
void World<Rules>::target_load_ends(std::uint32_t attempt, bool works) {
  loads_ = static_cast<std::uint8_t>(loads_ & ~(1u << attempt));
  if (works) target_locks_ = has_locks_;
  TargetEvent event;
  event.kind = works ? TargetEvent::Kind::kLoaded : TargetEvent::Kind::kLoadFailed;
  event.attempt = attempt;
  feed(event);
}

template <typename Rules>
void World<Rules>::target_receives(int bit) {
  TargetEvent event;
  event.attempt = attempt_of(bit);
  switch (message_of(bit)) {
    case Message::kOffer:
      event.kind = TargetEvent::Kind::kOffer;
      break;
    case Message::kCommit:
      event.kind = TargetEvent::Kind::kCommit;
      break;
    case Message::kAbortAttempt:
      event.kind = TargetEvent::Kind::kAbort;
      event.scope = AbortScope::kAttempt;
      break;
    case Message::kAbortSession:
      event.kind = TargetEvent::Kind::kAbort;
      break;
    case Message::kAsk:
      event.kind = TargetEvent::Kind::kAsk;
      break;
    default:
      MIGRATE_CHECK(false);
  }
  feed(event);
}

template <typename Rules>
void World<Rules>::target_performs(Step::Outcome outcome) {
  using Kind = TargetAction::Kind;
  const TargetAction action = target_todo_[target_done_++];
  TargetEvent result;
  switch (action.kind) {
    case Kind::kLoad:
      loads_ = static_cast<std::uint8_t>(loads_ | (1u << action.attempt));
      return;
    case Kind::kRecord:
      if (outcome == Step::kWorks) return write_journal(action.state, action.attempt);
      faulted_ = true;
      result.kind = TargetEvent::Kind::kRecordFailed;
      return feed(result);
    case Kind::kSendReady:
      return send(Message::kReady, action.attempt);
    case Kind::kAskArbiter: {
      const bool granted = outcome != Step::kUnknown && acquire(Side::kTarget);
      result.kind = outcome != Step::kWorks ? TargetEvent::Kind::kArbiterUnknown
                    : granted               ? TargetEvent::Kind::kArbiterGranted
                                            : TargetEvent::Kind::kArbiterDenied;
      return feed(result);
    }
    case Kind::kCheckStart:
      result.kind = TargetEvent::Kind::kStartCheck;
      return feed(result);
    case Kind::kStartGuest:
      if (outcome != Step::kWorks) faulted_ = true;
      result.kind = outcome == Step::kWorks   ? TargetEvent::Kind::kGuestStarted
                    : outcome == Step::kFails ? TargetEvent::Kind::kStartFailed
                                              : TargetEvent::Kind::kStartUnsure;
      if (outcome != Step::kFails) {
        target_ran_ = true;
        if (source_runs_) breach(Violation::kTwoRun);
        if (journal_ != RecordState::kStarting) breach(Violation::kStartUnrecorded);
        if (has_locks_ && !target_locks_) breach(Violation::kStartWithoutLocks);
        if (target_.attempt() <= stale_up_to_) breach(Violation::kStaleStart);
      }
      target_runs_ = outcome == Step::kWorks;
      return feed(result);
    case Kind::kSendStarted:
      return send(Message::kStarted, action.attempt);
    case Kind::kYield:
      target_locks_ = false;
      return;
    case Kind::kSendDiscarded:
      if (action.scope == AbortScope::kAttempt) {
        if (attempt_discards_) send(Message::kDiscardedAttempt, action.attempt);
        return;
      }
      if (target_locks_) breach(Violation::kDiscardedWithLocks);
      return send(Message::kDiscarded, action.attempt);
    case Kind::kSendAnswer:
      return send_answer(action.answer);
    case Kind::kDiscardGuest:
      target_locks_ = false;
      target_runs_ = false;
      loads_ = 0;
      return;
  }
}

template <typename Rules>
void World<Rules>::write_journal(RecordState state, std::uint32_t attempt) {
  const bool withdrawn = state == RecordState::kWithdrawn && !target_ran_;
  const bool forgets = (journal_ == RecordState::kStarting || journal_ == RecordState::kStarted) &&
                       state != RecordState::kStarted && state != journal_ && !withdrawn;
  if (forgets) breach(Violation::kStartingForgotten);
  journal_ = state;
  journal_attempt_ = static_cast<std::uint8_t>(attempt);
}

template <typename Rules>
void World<Rules>::target_dies() {
  if (!target_lives_) return;
  target_lives_ = target_runs_ = target_locks_ = false;
  target_todo_ = {}, target_done_ = 0;
  loads_ = 0;
}

/// A listener answers ASK from the journal, or without finding it.
template <typename Rules>
void World<Rules>::listener_asked(bool finds_journal) {
  Answer answer;
  answer.attempt = journal_attempt_;
  answer.process_lives = target_lives_;
  answer.boot = boot_number(boot_);
  if (finds_journal) {
    const Verdict verdict = judge<Rules>(journal_, target_lives_, boot_ == 0);
    if (verdict.record != journal_) write_journal(verdict.record, journal_attempt_);
    answer.state = verdict.answer;
  }
  send_answer(answer);
}

template <typename Rules>
void World<Rules>::send_answer(const Answer& answer) {
  switch (answer.state) {
    case RecordState::kUnknown:
      return send(Message::kAnswerUnknown, answer.boot == boot_number(0) ? 0 : 1);
    case RecordState::kReceiving:
      return send(Message::kAnswerReceiving);
    case RecordState::kReady:
      return send(Message::kAnswerReady, answer.attempt);
    case RecordState::kStarting:
      // A living target never says so: see tell_end().
      MIGRATE_CHECK(!answer.process_lives);
      return send(Message::kAnswerStartingGone, answer.attempt);
    case RecordState::kStarted:
      return send(answer.process_lives ? Message::kStarted : Message::kAnswerStartedGone,
                  answer.attempt);
    case RecordState::kDiscarded:
      return send(Message::kDiscarded, answer.attempt);
    case RecordState::kWithdrawn:
      break;
  }
  MIGRATE_CHECK(false);
}

template <typename Rules>
bool World<Rules>::acquire(Side side) {
  if (owner_ == Side::kNone) owner_ = side;
  return owner_ == side;
}

template <typename Rules>
void World<Rules>::check() {
  // Refused, or answered.
  if (source_.state() == SourceState::kUncertain || source_.state() == SourceState::kServing) {
    operator_resumes_ = forces_ = false;
  }
  if (source_.state() == SourceState::kServing) heard_started_ = true;
  // Where nobody looks at a clock, it might as well stand.
  if (!(source_lives_ && source_.committed() && !source_.ended()) &&
      !(target_lives_ && holds_lease())) {
    ticks_ = 0;
  }
  if (source_runs_ && target_runs_) breach(Violation::kTwoRun);
  const bool dropped = source_lives_ && source_.state() == SourceState::kReleased;
  if (lazy_ && dropped && target_runs_ && !pages_here_ && !forces_) breach(Violation::kPagesLost);
  if (target_lives_ && target_idle() && !faulted_ &&
      (journal_ != target_.record_state() ||
       (journal_ != RecordState::kReceiving && journal_attempt_ != target_.attempt()))) {
    breach(Violation::kJournalDisagrees);
  }
  if (settled() && !crashed() && !faulted_ && !forces_ && !source_runs_ && !target_runs_) {
    breach(Violation::kNobodyRuns);
  }
}

}  // namespace migrate::session::model
