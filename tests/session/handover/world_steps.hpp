// World: what may happen next. Included by world.hpp.
#pragma once

#include "tests/session/handover/world.hpp"

namespace migrate::session::model {

inline Step step_of(SourceEvent::Kind kind, bool fair = true, bool force = false) {
  return {Step::Kind::kSourceEvent, static_cast<std::uint8_t>(kind), force, fair};
}
inline Step step_of(TargetEvent::Kind kind, bool fair = true) {
  return {Step::Kind::kTargetEvent, static_cast<std::uint8_t>(kind), false, fair};
}
inline Step step_of(Step::Kind kind, std::uint8_t argument = 0, bool fair = true) {
  return {kind, argument, false, fair};
}

template <typename Rules>
void World<Rules>::steps(const Config& config, std::vector<Step>& steps) const {
  steps.clear();
  if (settled()) return late_steps(steps);
  if (source_lives_) source_steps(config, steps);
  if (target_lives_) target_steps(config, steps);
  if (lazy_ && source_lives_) lazy_steps(steps);
  host_steps(config, steps);
}

/// What follows after a lazy start.
template <typename Rules>
void World<Rules>::lazy_steps(std::vector<Step>& steps) const {
  const SourceState state = source_.state();
  const bool serves = state == SourceState::kServing;
  // Pages need no STARTED: the source serves while it waits for that word, too.
  const bool linked = serves || state == SourceState::kCommitted;
  if (linked && target_runs_ && !pages_here_) steps.push_back(step_of(Step::Kind::kPagesArrive));
  // With a crash in between, or without: whoever has all says so again on each new link.
  if (linked && target_runs_ && pages_here_ && target_idle()) {
    steps.push_back(step_of(Step::Kind::kTargetTells));
  }
  if (serves) steps.push_back(step_of(Step::Kind::kSourceReopens));
}

/// After the end: whatever was sent arrives (again).
template <typename Rules>
void World<Rules>::late_steps(std::vector<Step>& steps) const {
  for (int bit = 0; bit < kBits; ++bit) {
    if (((sent_ >> bit) & 1) == 0) continue;
    const bool for_target = to_target(message_of(bit));
    if (for_target ? !target_lives_ : !source_lives_) continue;
    steps.push_back(step_of(for_target ? Step::Kind::kTargetReceives : Step::Kind::kSourceReceives,
                            static_cast<std::uint8_t>(bit)));
  }
}

template <typename Rules>
void World<Rules>::source_steps(const Config& config, std::vector<Step>& steps) const {
  using Kind = SourceEvent::Kind;
  const bool over = source_.ended() && source_idle();
  if (config.source_dies && !over) steps.push_back(step_of(Step::Kind::kSourceDies, 0, false));
  if (!source_idle()) return source_outcomes(config, steps);

  for (int bit = bit_of(Message::kReady, 0); bit < kBits; ++bit) {
    if (((sent_ >> bit) & 1) == 0) continue;
    steps.push_back(step_of(Step::Kind::kSourceReceives, static_cast<std::uint8_t>(bit)));
  }
  if (over) return;
  const SourceState state = source_.state();
  const bool may_begin = state == SourceState::kRunning && source_.attempt() < config.attempts;
  if (may_begin) steps.push_back(step_of(Kind::kBegin));
  if (state == SourceState::kPaused) steps.push_back(step_of(Kind::kOfferable));
  if (state == SourceState::kPaused || state == SourceState::kOffered) {
    steps.push_back(step_of(Kind::kHardDeadline));
  }
  // A user who cancels is no part of a fair world, but for one with no attempts left.
  steps.push_back(step_of(Kind::kCancel, state == SourceState::kRunning && !may_begin));
  steps.push_back(step_of(Kind::kFailure, false));
  steps.push_back(step_of(Kind::kLinkLost));
  if (state == SourceState::kAsking) steps.push_back(step_of(Kind::kConnected));
  if (state == SourceState::kCommitted || state == SourceState::kAsking) {
    // Whoever vouches that the guest does not run there says so now.
    if (!(operator_resumes_ && forces_ && target_runs_))
      steps.push_back(step_of(Kind::kAskWindowOver));
  }
  // In a fair world the link comes back, but that to a host that is gone.
  if (state == SourceState::kServing) {
    steps.push_back(step_of(Kind::kServeWindowOver, crashed()));
  }
  operator_steps(config, steps);
}

template <typename Rules>
void World<Rules>::operator_steps(const Config& config, std::vector<Step>& steps) const {
  if (source_.state() != SourceState::kUncertain && source_.state() != SourceState::kStuck) return;
  steps.push_back(step_of(SourceEvent::Kind::kOperatorResume));
  steps.push_back(step_of(SourceEvent::Kind::kOperatorRelease));
  if (!config.force) return;
  // An operator's word is true, or nothing holds. To resume: the guest does not run there now.
  const bool needed = crashed() || faulted_;
  if (!target_runs_) steps.push_back(step_of(SourceEvent::Kind::kOperatorResume, needed, true));
  // To release: it runs there, or is gone from there and its pages are worth nothing.
  const bool gone = lazy_ && !target_lives_ && owner_ == Side::kTarget;
  if (target_runs_ || source_.owes_pages() || gone) {
    steps.push_back(step_of(SourceEvent::Kind::kOperatorRelease, needed, true));
  }
}

template <typename Rules>
void World<Rules>::source_outcomes(const Config& config, std::vector<Step>& steps) const {
  const auto add = [&](Step::Outcome outcome, bool fair) {
    steps.push_back(step_of(Step::Kind::kSourcePerforms, outcome, fair));
  };
  switch (source_todo_[source_done_].kind) {
    case SourceAction::Kind::kReclaim:
      if (!target_locks_) add(Step::kWorks, true);
      return add(Step::kFails, false);
    case SourceAction::Kind::kAskArbiter:
      add(Step::kUnknown, false);
      add(Step::kUnknownButDone, false);
      return add(Step::kWorks, true);
    case SourceAction::Kind::kResumeGuest:
      if (config.faults) add(Step::kFails, false);
      return add(Step::kWorks, true);
    default:
      return add(Step::kWorks, true);
  }
}

template <typename Rules>
void World<Rules>::target_steps(const Config& config, std::vector<Step>& steps) const {
  using Kind = TargetEvent::Kind;
  if (config.target_dies) steps.push_back(step_of(Step::Kind::kTargetDies, 0, false));
  if (!target_idle()) return target_outcomes(config, steps);

  for (int bit = 0; bit < bit_of(Message::kReady, 0); ++bit) {
    if (((sent_ >> bit) & 1) == 0) continue;
    steps.push_back(step_of(Step::Kind::kTargetReceives, static_cast<std::uint8_t>(bit)));
  }
  for (std::uint32_t attempt = 1; attempt < target_.attempt(); ++attempt) {
    steps.push_back(step_of(Step::Kind::kStrayCommit, static_cast<std::uint8_t>(attempt), false));
  }
  for (std::uint32_t attempt = 1; attempt <= kAttemptsMax; ++attempt) {
    if (((loads_ >> attempt) & 1) == 0) continue;
    // Granted at the last tick, a lease would never end.
    const bool may_work = !(has_locks_ && source_locks_) && ticks_ < kTicksMax;
    const auto argument = static_cast<std::uint8_t>(attempt);
    if (may_work) steps.push_back(step_of(Step::Kind::kTargetLoaded, argument));
    steps.push_back(step_of(Step::Kind::kTargetLoadFails, argument, !may_work));
  }
  if (target_.ended()) return;
  steps.push_back(step_of(Kind::kLinkLost));
  steps.push_back(step_of(Kind::kCancel, false));
  if (target_.deadline() && target_now() >= *target_.deadline()) {
    steps.push_back(step_of(Kind::kTick));
  }
}

template <typename Rules>
void World<Rules>::target_outcomes(const Config& config, std::vector<Step>& steps) const {
  const auto add = [&](Step::Outcome outcome, bool fair) {
    steps.push_back(step_of(Step::Kind::kTargetPerforms, outcome, fair));
  };
  const TargetAction& action = target_todo_[target_done_];
  add(Step::kWorks, true);
  switch (action.kind) {
    case TargetAction::Kind::kAskArbiter:
      add(Step::kUnknown, false);
      return add(Step::kUnknownButDone, false);
    case TargetAction::Kind::kRecord:
      if (config.faults &&
          (action.state == RecordState::kReady || action.state == RecordState::kStarting)) {
        add(Step::kFails, false);
      }
      return;
    case TargetAction::Kind::kStartGuest:
      if (!config.faults) return;
      add(Step::kFails, false);
      return add(Step::kUnknown, false);
    default:
      return;
  }
}

template <typename Rules>
void World<Rules>::host_steps(const Config& config, std::vector<Step>& steps) const {
  if (config.host_reboots && boot_ == 0) {
    // The journal goes, as on a tmpfs; or it stays; or an old state of it comes back.
    const auto reboot = [&](RecordState journal) {
      steps.push_back(step_of(Step::Kind::kHostReboots, static_cast<std::uint8_t>(journal), false));
    };
    reboot(RecordState::kUnknown);
    reboot(journal_);
    if (journal_ > RecordState::kReady) reboot(RecordState::kReady);
  }
  if (is_sent(Message::kAsk)) {
    const bool hands_over = judge<Rules>(journal_, target_lives_, boot_ == 0).hand_over;
    if (!hands_over) steps.push_back(step_of(Step::Kind::kListenerAsked));
    steps.push_back(step_of(Step::Kind::kListenerAsked, 1, false));
  }
  // Between its last look at the clock and the guest's first instruction a target does not take as
  // long as the source allows for.
  const bool starts_now =
      target_lives_ && target_.state() == TargetState::kLaunched && !target_runs_;
  if (ticks_ < kTicksMax && !starts_now) steps.push_back(step_of(Step::Kind::kTick));
}

}  // namespace migrate::session::model
