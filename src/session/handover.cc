#include "session/handover.hpp"

#include "session/handover_doubt_impl.hpp"
#include "session/handover_source_impl.hpp"
#include "session/handover_target_impl.hpp"

namespace migrate::session {

template class BasicSourceHandover<AllRules>;
template class BasicTargetHandover<AllRules>;

bool may_follow(RecordState now, RecordState next) {
  switch (now) {
    case RecordState::kUnknown:
    case RecordState::kReceiving:
      return next == RecordState::kReceiving || next == RecordState::kReady ||
             next == RecordState::kDiscarded;
    case RecordState::kReady:
      return next != RecordState::kUnknown && next != RecordState::kStarted &&
             next != RecordState::kWithdrawn;
    case RecordState::kStarting:
      return next == RecordState::kStarted || next == RecordState::kWithdrawn;
    case RecordState::kStarted:
    case RecordState::kDiscarded:
    case RecordState::kWithdrawn:
      return next == now;
  }
  return false;
}

std::string_view to_string(RecordState state) {
  switch (state) {
    case RecordState::kUnknown:
      return "UNKNOWN";
    case RecordState::kReceiving:
      return "RECEIVING";
    case RecordState::kReady:
      return "READY";
    case RecordState::kStarting:
      return "STARTING";
    case RecordState::kStarted:
      return "STARTED";
    case RecordState::kDiscarded:
      return "DISCARDED";
    case RecordState::kWithdrawn:
      return "WITHDRAWN";
  }
  return "invalid";
}

std::string_view to_string(SourceState state) {
  switch (state) {
    case SourceState::kRunning:
      return "running";
    case SourceState::kPaused:
      return "paused";
    case SourceState::kOffered:
      return "offered";
    case SourceState::kCommitted:
      return "committed";
    case SourceState::kAsking:
      return "asking";
    case SourceState::kServing:
      return "serving";
    case SourceState::kUncertain:
      return "uncertain";
    case SourceState::kClaiming:
      return "claiming";
    case SourceState::kReclaiming:
      return "reclaiming";
    case SourceState::kStuck:
      return "stuck";
    case SourceState::kReleased:
      return "released";
    case SourceState::kKept:
      return "kept";
  }
  return "invalid";
}

std::string_view to_string(TargetState state) {
  switch (state) {
    case TargetState::kReceiving:
      return "receiving";
    case TargetState::kLoading:
      return "loading";
    case TargetState::kReady:
      return "ready";
    case TargetState::kClaiming:
      return "claiming";
    case TargetState::kStarting:
      return "starting";
    case TargetState::kLaunched:
      return "launched";
    case TargetState::kStarted:
      return "started";
    case TargetState::kDiscarded:
      return "discarded";
    case TargetState::kWithdrawn:
      return "withdrawn";
    case TargetState::kLost:
      return "lost";
  }
  return "invalid";
}

std::string_view to_string(SourceEvent::Kind kind) {
  using Kind = SourceEvent::Kind;
  switch (kind) {
    case Kind::kBegin:
      return "begin";
    case Kind::kOfferable:
      return "offerable";
    case Kind::kReady:
      return "READY";
    case Kind::kStarted:
      return "STARTED";
    case Kind::kDiscarded:
      return "DISCARDED";
    case Kind::kAnswer:
      return "ANSWER";
    case Kind::kLinkLost:
      return "link lost";
    case Kind::kConnected:
      return "connected";
    case Kind::kAskWindowOver:
      return "ask window over";
    case Kind::kComplete:
      return "COMPLETE";
    case Kind::kServeWindowOver:
      return "serve window over";
    case Kind::kHardDeadline:
      return "hard deadline";
    case Kind::kCancel:
      return "cancel";
    case Kind::kFailure:
      return "failure";
    case Kind::kArbiterGranted:
      return "arbiter granted";
    case Kind::kArbiterDenied:
      return "arbiter denied";
    case Kind::kArbiterUnknown:
      return "arbiter unknown";
    case Kind::kReclaimed:
      return "reclaimed";
    case Kind::kReclaimFailed:
      return "reclaim failed";
    case Kind::kResumeFailed:
      return "resume failed";
    case Kind::kOperatorResume:
      return "operator: resume";
    case Kind::kOperatorRelease:
      return "operator: release";
  }
  return "invalid";
}

std::string_view to_string(TargetEvent::Kind kind) {
  using Kind = TargetEvent::Kind;
  switch (kind) {
    case Kind::kOffer:
      return "OFFER";
    case Kind::kLoaded:
      return "loaded";
    case Kind::kLoadFailed:
      return "load failed";
    case Kind::kCommit:
      return "COMMIT";
    case Kind::kAbort:
      return "ABORT";
    case Kind::kAsk:
      return "ASK";
    case Kind::kLinkLost:
      return "link lost";
    case Kind::kTick:
      return "tick";
    case Kind::kCancel:
      return "cancel";
    case Kind::kFailure:
      return "failure";
    case Kind::kRecordFailed:
      return "record failed";
    case Kind::kArbiterGranted:
      return "arbiter granted";
    case Kind::kArbiterDenied:
      return "arbiter denied";
    case Kind::kArbiterUnknown:
      return "arbiter unknown";
    case Kind::kStartCheck:
      return "start check";
    case Kind::kGuestStarted:
      return "guest started";
    case Kind::kStartFailed:
      return "start failed";
    case Kind::kStartUnsure:
      return "start unsure";
  }
  return "invalid";
}

std::string_view to_string(SourceAction::Kind kind) {
  using Kind = SourceAction::Kind;
  switch (kind) {
    case Kind::kPauseGuest:
      return "pause guest";
    case Kind::kRelinquish:
      return "relinquish";
    case Kind::kSendOffer:
      return "send OFFER";
    case Kind::kSendCommit:
      return "send COMMIT";
    case Kind::kSendAbort:
      return "send ABORT";
    case Kind::kConnect:
      return "connect";
    case Kind::kSendAsk:
      return "send ASK";
    case Kind::kAskArbiter:
      return "ask arbiter";
    case Kind::kReclaim:
      return "reclaim";
    case Kind::kResumeGuest:
      return "resume guest";
    case Kind::kReleaseGuest:
      return "release guest";
    case Kind::kSendReleased:
      return "send RELEASED";
    case Kind::kRefuse:
      return "refuse";
  }
  return "invalid";
}

std::string_view to_string(TargetAction::Kind kind) {
  using Kind = TargetAction::Kind;
  switch (kind) {
    case Kind::kLoad:
      return "load";
    case Kind::kRecord:
      return "record";
    case Kind::kSendReady:
      return "send READY";
    case Kind::kAskArbiter:
      return "ask arbiter";
    case Kind::kCheckStart:
      return "check start";
    case Kind::kStartGuest:
      return "start guest";
    case Kind::kSendStarted:
      return "send STARTED";
    case Kind::kYield:
      return "yield";
    case Kind::kSendDiscarded:
      return "send DISCARDED";
    case Kind::kSendAnswer:
      return "send ANSWER";
    case Kind::kDiscardGuest:
      return "discard guest";
  }
  return "invalid";
}

std::string_view to_text(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNone:
      return "not refused";
    case Refusal::kTooLate:
      return "COMMIT was sent, the target may already run the guest: wait for the outcome";
    case Refusal::kNothingToDo:
      return "the handover of this guest is not uncertain: there is nothing to resolve";
    case Refusal::kRunsThere:
      return "the target answered that it started the guest: it cannot be resumed here";
    case Refusal::kLeaseMayHold:
      return "the target does not answer and may still start the guest, its lease has not surely "
             "run out: try again in a few seconds";
    case Refusal::kNeedsForce:
      return "the target does not answer: make sure that its host is dead or fenced, then repeat "
             "with --force";
    case Refusal::kOnlyCopyHere:
      return "the target does not have the guest, the only copy is here: use --resume";
    case Refusal::kTargetOwns:
      return "the arbiter says that the target owns the guest: use --release if it is there, or "
             "--resume --force once the target has answered that it discarded it";
    case Refusal::kArbiterUnknown:
      return "the arbiter cannot be asked who owns the guest: make it reachable and try again";
    case Refusal::kPagesOwed:
      return "the target started the guest and may need pages that are only here: make sure that "
             "it is gone there or has all its memory, then repeat with --force";
  }
  return "invalid";
}

std::string_view to_text(Doubt doubt) {
  switch (doubt) {
    case Doubt::kNone:
      return "none";
    case Doubt::kNoAnswer:
      return "COMMIT was sent and the target has not answered since";
    case Doubt::kRebooted:
      return "the target's host was restarted after COMMIT was sent: the guest does not run there "
             "now but may have run";
    case Doubt::kTargetOwns:
      return "the arbiter says that the target owns the guest, and the target has not confirmed "
             "that it runs";
    case Doubt::kArbiterUnknown:
      return "the arbiter could not be asked who owns the guest";
    case Doubt::kDiscarded:
      return "the target has discarded the guest: the only copy is here";
    case Doubt::kPagesOwed:
      return "the guest was started at the target and cannot be reached; pages it may need are "
             "only here";
  }
  return "invalid";
}

}  // namespace migrate::session
