// TargetDriver: performs what the target's handover machine decides.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "migrate/clock.hpp"
#include "migrate/migration.hpp"
#include "session/handover.hpp"
#include "session/journal.hpp"
#include "transport/record_channel.hpp"
#include "wire/messages.hpp"

namespace migrate::session {

/// Used by one thread, the coordinator's.
class TargetDriver {
 public:
  struct Context {
    TargetGuest& guest;
    Arbiter* arbiter;  ///< May be nullptr.
    Clock& clock;
    nanoseconds lease;
    nanoseconds idle_max;
    std::string session;
    BootId boot{};
    /// Verifies and loads what was offered, takes the locks; the durations go into READY. Nothing:
    /// it is not done, and ABORT of the attempt or the end of patience comes next.
    std::function<Result<std::optional<wire::Ready>>(std::uint32_t attempt)> load;
    std::function<RunState()> run_state;  ///< Of the latest OFFER.
    std::function<void()> on_started;     ///< The guest runs; STARTED goes out next.
    std::function<void()> on_told;        ///< STARTED was handed to the link.
    /// Called before the guest is dropped: from then on nothing may write to its memory.
    std::function<void()> stop_lanes;
  };
  TargetDriver(Context context, Journal journal, RecordChannel* control);

  void drive(TargetEvent::Kind kind, std::uint32_t attempt = 0,
             AbortScope scope = AbortScope::kSession);
  /// A failure here or told by the peer: remembered as the reason, and fed as what it is.
  void fail(Error error);
  /// Another connection took the control lane over; nullptr when the link is lost.
  void use(RecordChannel* control) { control_ = control; }

  [[nodiscard]] const TargetHandover& machine() const { return machine_; }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  [[nodiscard]] bool ready_was_sent() const { return ready_was_sent_; }
  [[nodiscard]] std::uint64_t start_us() const { return start_us_; }
  /// When TargetGuest::start() had returned.
  [[nodiscard]] SteadyTime started_at() const { return started_at_; }
  Journal& journal() { return journal_; }
  void remember(Error error);
  /// What DISCARDED of the attempt says when it ends.
  void note_attempt(Error error) { attempt_error_ = std::move(error); }

 private:
  std::optional<TargetEvent> perform(const TargetAction& action, bool& skip_rest);
  std::optional<TargetEvent> perform_unguarded(const TargetAction& action, bool& skip_rest);
  std::optional<TargetEvent> broke_off(const TargetAction& action, Error error, bool& skip_rest);
  template <typename Message>
  std::optional<TargetEvent> send(const Message& message);
  std::optional<TargetEvent> load(std::uint32_t attempt);
  std::optional<TargetEvent> ask_arbiter();
  std::optional<TargetEvent> start_guest();
  [[nodiscard]] TargetEvent event(TargetEvent::Kind kind, std::uint32_t attempt = 0) const;

  Context context_;
  Journal journal_;
  RecordChannel* control_;
  TargetHandover machine_;
  std::optional<Error> error_;
  std::optional<Error> attempt_error_;
  wire::Ready ready_;
  bool ready_was_sent_ = false;
  std::uint64_t start_us_ = 0;
  SteadyTime started_at_{};
};

}  // namespace migrate::session
