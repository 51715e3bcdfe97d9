// Definitions of BasicSourceHandover, continued: what it does when nobody answers, and what an
// operator may then say. Included by handover.cc and by the exploration test.
#pragma once

#include "session/handover.hpp"

namespace migrate::session {

/// When has a lease granted at the target surely run out? It was granted before READY was sent, so
/// counting from READY's arrival begins late enough; what remains is that the two clocks do not run
/// equally fast and that the target starts a little after it looked at the clock.
///
/// Rate: Linux slews CLOCK_BOOTTIME by at most 10 % (adjtimex tick 900000..1100000 / HZ) plus
/// 500 ppm, so at worst ours runs at 1.1005 and the target's at 0.8995: 1.2235 of the lease. 5/4.
inline constexpr int kClockRateNumerator = 5;
inline constexpr int kClockRateDenominator = 4;
/// From the target's last look at its clock to its first guest instruction: microseconds of code. A
/// second leaves room for a preempted thread.
inline constexpr nanoseconds kCheckToStartMax = std::chrono::seconds(1);

/// The ask window is over without an answer that decides.
template <typename Rules>
SourceActions BasicSourceHandover<Rules>::no_answer(const SourceEvent& event) {
  if (state_ != SourceState::kCommitted && state_ != SourceState::kAsking) return {};
  switch (wish_) {
    case Wish::kNone:
      // With an arbiter there is no doubt to be left in: whoever it names first may run.
      if (has_arbiter_) return claim_or_resume();
      return stay(rebooted_ ? Doubt::kRebooted : Doubt::kNoAnswer, Refusal::kNone);
    case Wish::kResume:
      return no_answer_to_resume(event.now);
    case Wish::kRelease:
      if (force_) return release(true);
      if (!target_owns_) return stay(Doubt::kNoAnswer, Refusal::kNeedsForce);
      // To own the guest is not yet to have all its pages.
      if (!demand(Rule::kOwedNeedsForce, !lazy_)) {
        return stay(Doubt::kTargetOwns, Refusal::kPagesOwed);
      }
      return release(true);
  }
  return {};
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::no_answer_to_resume(nanoseconds now) {
  if (has_arbiter_) return claim_or_resume();
  // A COMMIT may still lie in the target's socket. As long as the lease may hold it would start the
  // guest, whatever the operator saw; afterwards only a guest that runs already is a danger, and
  // that the operator can vouch for.
  if (!demand(Rule::kForceAfterLease, now >= *lease_surely_over_at())) {
    return stay(Doubt::kNoAnswer, Refusal::kLeaseMayHold);
  }
  if (!demand(Rule::kForceWithoutAnswer, force_)) {
    return stay(Doubt::kNoAnswer, Refusal::kNeedsForce);
  }
  return reclaim_or_resume();
}

/// The target started the guest and cannot be reached. It may run on with what it has, so neither
/// is the guest ours nor are its pages free to go.
template <typename Rules>
SourceActions BasicSourceHandover<Rules>::serve_window_over() {
  if (state_ != SourceState::kServing) return {};
  return stay(Doubt::kPagesOwed, Refusal::kNone);
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::operator_resume(bool force) {
  switch (state_) {
    case SourceState::kStuck:
      return reclaim_or_resume();
    case SourceState::kUncertain:
      if (doubt_ == Doubt::kPagesOwed && enforces(Rule::kServedIsNotOurs)) {
        return {refuse(Refusal::kRunsThere)};
      }
      if (!discarded_ && !rebooted_) return ask(Wish::kResume, force);
      // Nothing more can be learned by asking.
      wish_ = Wish::kResume;
      force_ = force;
      return claim_or_resume();
    default:
      return {refuse(Refusal::kNothingToDo)};
  }
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::operator_release(bool force) {
  if (state_ != SourceState::kUncertain && state_ != SourceState::kStuck) {
    return {refuse(Refusal::kNothingToDo)};
  }
  if (!committed_ || discarded_) return {refuse(Refusal::kOnlyCopyHere)};
  if (owes_pages()) {
    if (!demand(Rule::kOwedNeedsForce, force)) return {refuse(Refusal::kPagesOwed)};
    return release(true);
  }
  return ask(Wish::kRelease, force);
}

template <typename Rules>
SourceActions BasicSourceHandover<Rules>::ask(Wish wish, bool force) {
  wish_ = wish;
  force_ = force;
  state_ = SourceState::kAsking;
  return {act(SourceAction::Kind::kConnect)};
}

/// The guest stays paused here, until an operator says otherwise.
template <typename Rules>
SourceActions BasicSourceHandover<Rules>::stay(Doubt doubt, Refusal refusal) {
  state_ = SourceState::kUncertain;
  doubt_ = doubt;
  wish_ = Wish::kNone;
  force_ = false;
  return refusal == Refusal::kNone ? SourceActions{} : SourceActions{refuse(refusal)};
}

template <typename Rules>
std::optional<nanoseconds> BasicSourceHandover<Rules>::lease_surely_over_at() const {
  if (!committed_) return std::nullopt;
  return ready_at_ + lease_ * kClockRateNumerator / kClockRateDenominator + kCheckToStartMax;
}

}  // namespace migrate::session
