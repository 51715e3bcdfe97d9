// A source's machine for tests: feeds it, and keeps what it said last.
#pragma once

#include <vector>

#include "session/handover.hpp"

namespace migrate::session {

inline constexpr nanoseconds kReadyAt = std::chrono::seconds(1000);
inline constexpr nanoseconds kLease = std::chrono::seconds(10);

inline BootId boot(int number) {
  BootId id;
  id.bytes[15] = static_cast<std::byte>(number);
  return id;
}

/// A machine, and what it said last.
class Source {
 public:
  using Kind = SourceEvent::Kind;
  using Act = SourceAction::Kind;

  explicit Source(bool arbiter = false) : machine_(boot(1), arbiter) {}

  /// Feeds and gives back the kinds of what is to do.
  std::vector<Act> on(SourceEvent event) {
    actions_ = machine_.on(event);
    std::vector<Act> kinds;
    for (const SourceAction& action : actions_) kinds.push_back(action.kind);
    return kinds;
  }
  std::vector<Act> on(Kind kind) {
    SourceEvent event;
    event.kind = kind;
    event.now = kReadyAt;
    event.attempt = machine_.attempt();
    return on(event);
  }
  std::vector<Act> ready(std::uint32_t attempt, nanoseconds lease = kLease) {
    SourceEvent event;
    event.kind = Kind::kReady;
    event.now = kReadyAt;
    event.attempt = attempt;
    event.lease = lease;
    return on(event);
  }
  std::vector<Act> started(std::uint32_t attempt) {
    SourceEvent event;
    event.kind = Kind::kStarted;
    event.attempt = attempt;
    return on(event);
  }
  std::vector<Act> answer(RecordState state, std::uint32_t attempt = 1, int boot_number = 1,
                          bool lives = true) {
    SourceEvent event;
    event.kind = Kind::kAnswer;
    event.answer = {state, attempt, boot(boot_number), lives};
    return on(event);
  }
  std::vector<Act> resolve(Kind kind, bool force) {
    SourceEvent event;
    event.kind = kind;
    event.force = force;
    return on(event);
  }
  std::vector<Act> window_over(nanoseconds now) {
    SourceEvent event;
    event.kind = Kind::kAskWindowOver;
    event.now = now;
    return on(event);
  }

  Source& offered(bool lazy = false) {
    on(Kind::kBegin);
    SourceEvent event;
    event.kind = Kind::kOfferable;
    event.lazy = lazy;
    on(event);
    return *this;
  }
  Source& committed(bool lazy = false) {
    offered(lazy).ready(1);
    return *this;
  }
  Source& serving() {
    committed(true).started(1);
    return *this;
  }
  Source& owing() {
    serving().on(Kind::kServeWindowOver);
    return *this;
  }
  Source& asking() {
    committed().on(Kind::kLinkLost);
    return *this;
  }
  Source& uncertain() {
    asking().on(Kind::kAskWindowOver);
    return *this;
  }

  [[nodiscard]] SourceState state() const { return machine_.state(); }
  [[nodiscard]] const SourceHandover& machine() const { return machine_; }
  [[nodiscard]] const SourceActions& actions() const { return actions_; }
  [[nodiscard]] Refusal refusal() const {
    for (const SourceAction& action : actions_) {
      if (action.kind == Act::kRefuse) return action.refusal;
    }
    return Refusal::kNone;
  }

 private:
  SourceHandover machine_;
  SourceActions actions_;
};

}  // namespace migrate::session
