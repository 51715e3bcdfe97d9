// World: keys for the set of explored states, and words for traces. Included by world.hpp.
#pragma once

#include <string>

#include "tests/session/handover/world.hpp"

namespace migrate::session::model {

template <typename Rules>
Key World<Rules>::key() const {
  Key key{};
  KeyWriter writer(key);
  const auto add = [&](const auto& value) { writer.field(value); };
  // Of a side that is gone, or has come to its end, nothing more can matter.
  add(source_lives_), add(source_.state());
  if (source_lives_ && !source_.ended()) source_.each_field(add);
  add(target_lives_);
  if (target_lives_) target_.each_field(add);
  // What is left to do; what an action carries beside this follows from the machine.
  for (std::size_t i = source_done_; i < SourceActions::kCapacity; ++i) {
    const bool there = i < source_todo_.size();
    add(there ? static_cast<unsigned>(source_todo_[i].kind) + 1 : 0u);
    add(there ? source_todo_[i].attempt * 4 + static_cast<unsigned>(source_todo_[i].scope) : 0u);
  }
  for (std::size_t i = target_done_; i < TargetActions::kCapacity; ++i) {
    const bool there = i < target_todo_.size();
    add(there ? static_cast<unsigned>(target_todo_[i].kind) + 1 : 0u);
    add(there ? target_todo_[i].attempt * 4 + static_cast<unsigned>(target_todo_[i].scope) : 0u);
    add(there ? target_todo_[i].state : RecordState::kUnknown);
  }
  for (int shift = 0; shift < kBits; shift += 8) add((sent_that_matters() >> shift) & 0xff);
  add(source_done_), add(target_done_);
  add(journal_), add(journal_attempt_), add(boot_), add(ticks_), add(owner_);
  add(loads_), add(stale_up_to_);
  for (const bool flag : {source_runs_, source_locks_, target_runs_, target_ran_, target_locks_,
                          operator_resumes_, forces_, faulted_, pages_here_, heard_started_}) {
    add(flag);
  }
  return key;
}

template <typename Rules>
std::uint64_t World<Rules>::sent_that_matters() const {
  constexpr int kFirstToSource = static_cast<int>(Message::kReady) * (kAttemptsMax + 1);
  constexpr std::uint64_t kToTarget = (std::uint64_t{1} << kFirstToSource) - 1;
  constexpr std::uint64_t kAsk = std::uint64_t{1} << (static_cast<int>(Message::kAsk) * 4);
  std::uint64_t sent = sent_;
  if (!target_lives_) sent &= ~kToTarget | kAsk;
  if (!source_lives_ || source_.ended()) sent &= kToTarget & ~kAsk;
  return sent;
}

template <typename Rules>
std::string World<Rules>::describe(const Step& step) const {
  const auto message = [](int bit) {
    return std::string(name_of(message_of(bit))) + " " + std::to_string(attempt_of(bit));
  };
  const auto outcome = [](std::uint8_t argument) {
    constexpr std::array<const char*, 4> kNames = {"", ": fails", ": unknown",
                                                   ": unknown, but done"};
    return std::string(kNames[argument]);
  };
  using std::string;
  switch (step.kind) {
    case Step::Kind::kSourceEvent:
      return "source: " + string(to_string(static_cast<SourceEvent::Kind>(step.argument))) +
             (step.force ? " --force" : "");
    case Step::Kind::kSourceReceives:
      return "source receives " + message(step.argument);
    case Step::Kind::kSourcePerforms:
      return "source does: " + string(to_string(source_todo_[source_done_].kind)) +
             outcome(step.argument);
    case Step::Kind::kSourceDies:
      return "source dies";
    case Step::Kind::kTargetEvent:
      return "target: " + string(to_string(static_cast<TargetEvent::Kind>(step.argument)));
    case Step::Kind::kTargetLoaded:
      return "target has loaded attempt " + std::to_string(step.argument);
    case Step::Kind::kTargetLoadFails:
      return "target cannot load attempt " + std::to_string(step.argument);
    case Step::Kind::kTargetReceives:
      return "target receives " + message(step.argument);
    case Step::Kind::kTargetPerforms:
      return "target does: " + string(to_string(target_todo_[target_done_].kind)) + " " +
             string(to_string(target_todo_[target_done_].state)) + outcome(step.argument);
    case Step::Kind::kTargetDies:
      return "target dies";
    case Step::Kind::kHostReboots:
      return "target's host reboots, its journal says " +
             string(to_string(static_cast<RecordState>(step.argument)));
    case Step::Kind::kListenerAsked:
      return step.argument == 0 ? "a listener answers from the journal"
                                : "a listener answers without the journal";
    case Step::Kind::kStrayCommit:
      return "a stray COMMIT " + std::to_string(step.argument) + " reaches the target";
    case Step::Kind::kTick:
      return "a lease's time passes";
    case Step::Kind::kPagesArrive:
      return "the target has all pages";
    case Step::Kind::kTargetTells:
      return "the target tells COMPLETE";
    case Step::Kind::kSourceReopens:
      return "the source opens the link again and asks";
  }
  return {};
}

template <typename Rules>
std::string World<Rules>::to_text() const {
  std::string text = "source ";
  text += source_lives_ ? to_string(source_.state()) : "dead";
  text += " (attempt " + std::to_string(source_.attempt()) + (source_runs_ ? ", RUNS)" : ")");
  text += ", target ";
  text += target_lives_ ? to_string(target_.state()) : "dead";
  text += " (attempt " + std::to_string(target_.attempt()) + (target_runs_ ? ", RUNS)" : ")");
  text += ", journal " + std::string(to_string(journal_));
  text += ", tick " + std::to_string(ticks_);
  return text;
}

}  // namespace migrate::session::model
