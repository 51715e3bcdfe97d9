// World: the two machines, what they have been told to do and have not done yet, and what is real.
#pragma once

#include <string>
#include <vector>

#include "tests/session/handover/model.hpp"

namespace migrate::session::model {

template <typename Rules>
class World {
 public:
  explicit World(const Config& config)
      : source_(boot_number(0), config.arbiter),
        target_(boot_number(0), kLease, config.arbiter),
        has_locks_(config.locks),
        lazy_(config.lazy),
        attempt_discards_(config.attempt_discards) {}

  /// All that may happen next.
  void steps(const Config& config, std::vector<Step>& steps) const;
  /// What is then. Breaches of what must never be are noted in violation().
  [[nodiscard]] World after(const Step& step) const;

  [[nodiscard]] Violation violation() const { return violation_; }
  /// Both sides have come to their end.
  [[nodiscard]] bool settled() const {
    return (!source_lives_ || (source_.ended() && source_idle())) &&
           (!target_lives_ || (target_.ended() && target_idle()));
  }
  [[nodiscard]] Key key() const;
  [[nodiscard]] std::string describe(const Step& step) const;
  [[nodiscard]] std::string to_text() const;

 private:
  // What may happen (world_steps.hpp).
  void late_steps(std::vector<Step>& steps) const;
  void source_steps(const Config& config, std::vector<Step>& steps) const;
  void operator_steps(const Config& config, std::vector<Step>& steps) const;
  void lazy_steps(std::vector<Step>& steps) const;
  void source_outcomes(const Config& config, std::vector<Step>& steps) const;
  void target_steps(const Config& config, std::vector<Step>& steps) const;
  void target_outcomes(const Config& config, std::vector<Step>& steps) const;
  void host_steps(const Config& config, std::vector<Step>& steps) const;

  // What then is (world_after.hpp).
  void source_event(const Step& step);
  void source_receives(int bit);
  void source_performs(Step::Outcome outcome);
  void feed(SourceEvent event);
  void target_event(const Step& step);
  void target_load_ends(std::uint32_t attempt, bool works);
  void target_receives(int bit);
  void target_performs(Step::Outcome outcome);
  void feed(TargetEvent event);
  void write_journal(RecordState state, std::uint32_t attempt);
  void target_dies();
  void listener_asked(bool finds_journal);
  void send(Message message, std::uint32_t attempt = 0) {
    sent_ |= std::uint64_t{1} << bit_of(message, attempt);
  }
  void send_answer(const Answer& answer);
  bool acquire(Side side);
  void go_on_at_target();
  void check();
  [[nodiscard]] std::uint64_t sent_that_matters() const;
  void breach(Violation violation) {
    if (violation_ == Violation::kNone) violation_ = violation;
  }

  /// Actions whose result is not certain, or before which a death makes a difference.
  static bool has_outcomes(SourceAction::Kind kind) {
    return kind == SourceAction::Kind::kReclaim || kind == SourceAction::Kind::kAskArbiter ||
           kind == SourceAction::Kind::kResumeGuest;
  }
  static bool has_outcomes(TargetAction::Kind kind) {
    return kind == TargetAction::Kind::kRecord || kind == TargetAction::Kind::kAskArbiter ||
           kind == TargetAction::Kind::kCheckStart || kind == TargetAction::Kind::kStartGuest;
  }
  [[nodiscard]] bool holds_lease() const {
    return target_.state() == TargetState::kReady || target_.state() == TargetState::kClaiming ||
           target_.state() == TargetState::kStarting;
  }
  [[nodiscard]] bool crashed() const { return !source_lives_ || !target_lives_; }
  [[nodiscard]] bool source_idle() const { return source_done_ == source_todo_.size(); }
  [[nodiscard]] bool target_idle() const { return target_done_ == target_todo_.size(); }
  [[nodiscard]] nanoseconds source_now() const { return kSourceClock + ticks_ * kLease; }
  [[nodiscard]] nanoseconds target_now() const { return kTargetClock + ticks_ * kLease; }
  [[nodiscard]] bool is_sent(Message message, std::uint32_t attempt = 0) const {
    return ((sent_ >> bit_of(message, attempt)) & 1) != 0;
  }

  BasicSourceHandover<Rules> source_;
  BasicTargetHandover<Rules> target_;
  bool has_locks_;
  bool lazy_;
  bool attempt_discards_;
  SourceActions source_todo_;
  TargetActions target_todo_;
  std::uint8_t source_done_ = 0;
  std::uint8_t target_done_ = 0;
  std::uint64_t sent_ = 0;

  RecordState journal_ = RecordState::kReceiving;
  std::uint8_t journal_attempt_ = 0;
  std::uint8_t boot_ = 0;  ///< Of the target's host; the record is of boot 0.
  std::uint8_t ticks_ = 0;
  Side owner_ = Side::kNone;  ///< What the arbiter knows.

  bool source_lives_ = true;
  bool source_runs_ = true;
  bool source_locks_ = true;
  bool target_lives_ = true;
  bool target_runs_ = false;
  bool target_ran_ = false;  ///< For at least one instruction, ever.
  bool target_locks_ = false;
  bool pages_here_ = false;       ///< The guest that was started lazily misses nothing any more.
  bool heard_started_ = false;    ///< The source knew, at least once, that it must serve.
  std::uint8_t loads_ = 0;        ///< A bit for each attempt being loaded.
  std::uint8_t stale_up_to_ = 0;  ///< The source's guest went on after this attempt.

  bool operator_resumes_ = false;  ///< An operator asked for it and it was not refused yet.
  bool forces_ = false;            ///< He vouches for what he said.
  bool faulted_ = false;
  Violation violation_ = Violation::kNone;
};

}  // namespace migrate::session::model

#include "tests/session/handover/world_after.hpp"
#include "tests/session/handover/world_steps.hpp"
#include "tests/session/handover/world_text.hpp"
