#include "session/target_driver.hpp"

#include <thread>

#include "base/guarded.hpp"
#include "base/log.hpp"

namespace migrate::session {
namespace {

using std::chrono::milliseconds;
using Kind = TargetEvent::Kind;
using ActionKind = TargetAction::Kind;

// Between two questions to an arbiter that could not be reached.
constexpr milliseconds kArbiterPause{50};
// The source may be gone; what it is told here it can also ask for.
constexpr milliseconds kTellPatience{1'000};

std::uint64_t to_us(nanoseconds time) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(time).count());
}

}  // namespace

TargetDriver::TargetDriver(Context context, Journal journal, RecordChannel* control)
    : context_(std::move(context)),
      journal_(std::move(journal)),
      control_(control),
      machine_(context_.boot, context_.lease, context_.arbiter != nullptr) {}

TargetEvent TargetDriver::event(Kind kind, std::uint32_t attempt) const {
  TargetEvent event;
  event.kind = kind;
  event.now = context_.clock.boottime();
  event.attempt = attempt;
  return event;
}

void TargetDriver::drive(Kind kind, std::uint32_t attempt, AbortScope scope) {
  std::optional<TargetEvent> next = event(kind, attempt);
  next->scope = scope;
  while (next) {
    const TargetActions actions = machine_.on(*next);
    next.reset();
    for (const TargetAction& action : actions) {
      bool skip_rest = false;
      if (auto result = perform(action, skip_rest)) next = std::move(result);
      if (skip_rest) break;
    }
  }
}

void TargetDriver::remember(Error error) {
  if (!error_) error_ = std::move(error);
}

void TargetDriver::fail(Error error) {
  const ErrorCode code = error.code;
  remember(std::move(error));
  if (code == ErrorCode::kLinkLost || code == ErrorCode::kTimeout) return drive(Kind::kLinkLost);
  drive(code == ErrorCode::kCancelled ? Kind::kCancel : Kind::kFailure);
}

template <typename Message>
std::optional<TargetEvent> TargetDriver::send(const Message& message) {
  Status sent = control_ == nullptr
                    ? make_error(ErrorCode::kLinkLost, "the link is lost")
                    : guarded([&] { return control_->send(message, kTellPatience); });
  if (sent) return std::nullopt;
  remember(std::move(sent).error().on(Side::kTarget));
  return event(Kind::kLinkLost);
}

/// The machine hears of each action that breaks off: it waits for the word of some, and nothing
/// else would bring it out of its state.
std::optional<TargetEvent> TargetDriver::perform(const TargetAction& action, bool& skip_rest) {
  std::optional<TargetEvent> next;
  Status done = guarded([&]() -> Status {
    next = perform_unguarded(action, skip_rest);
    return {};
  });
  if (done) return next;
  return broke_off(action, std::move(done).error(), skip_rest);
}

/// What is worth an event when an action ended in the middle. Takes no memory.
std::optional<TargetEvent> TargetDriver::broke_off(const TargetAction& action, Error error,
                                                   bool& skip_rest) {
  error = std::move(error).at(Phase::kHandover).on(Side::kTarget);
  switch (action.kind) {
    case ActionKind::kLoad:
      remember(std::move(error));
      return event(Kind::kLoadFailed, action.attempt);
    case ActionKind::kRecord:
      if (action.state != RecordState::kReady && action.state != RecordState::kStarting) {
        return std::nullopt;
      }
      remember(std::move(error));
      skip_rest = true;
      return event(Kind::kRecordFailed);
    case ActionKind::kAskArbiter:
      remember(std::move(error));
      return event(Kind::kArbiterUnknown);
    case ActionKind::kStartGuest:
      remember(std::move(error).at(Phase::kStart));
      return event(Kind::kStartUnsure);
    case ActionKind::kSendReady:
    case ActionKind::kSendStarted:
    case ActionKind::kSendDiscarded:
    case ActionKind::kSendAnswer:
      remember(std::move(error));
      return event(Kind::kLinkLost);
    case ActionKind::kCheckStart:
    case ActionKind::kYield:
    case ActionKind::kDiscardGuest:
      return std::nullopt;
  }
  return std::nullopt;
}

std::optional<TargetEvent> TargetDriver::perform_unguarded(const TargetAction& action,
                                                           bool& skip_rest) {
  switch (action.kind) {
    case ActionKind::kLoad:
      return load(action.attempt);
    case ActionKind::kRecord: {
      Status recorded = journal_.record(action.state, action.attempt, action.lease_end);
      if (recorded) return std::nullopt;
      log_line(LogLevel::kError, recorded.error().to_text());
      if (action.state != RecordState::kReady && action.state != RecordState::kStarting) {
        return std::nullopt;
      }
      remember(std::move(recorded).error().at(Phase::kHandover).on(Side::kTarget));
      skip_rest = true;
      return event(Kind::kRecordFailed);
    }
    case ActionKind::kSendReady:
      ready_.attempt = action.attempt;
      ready_.lease_ns = static_cast<std::uint64_t>(action.lease.count());
      ready_was_sent_ = true;
      return send(ready_);
    case ActionKind::kAskArbiter:
      if (action.repeat) std::this_thread::sleep_for(kArbiterPause);
      return ask_arbiter();
    case ActionKind::kCheckStart:
      return event(Kind::kStartCheck);
    case ActionKind::kStartGuest:
      return start_guest();
    case ActionKind::kSendStarted: {
      // It may be sent anew to a source that comes back; each is told once.
      if (context_.on_started) std::exchange(context_.on_started, nullptr)();
      auto result = send(wire::Started{action.attempt, start_us_});
      if (context_.on_told) std::exchange(context_.on_told, nullptr)();
      return result;
    }
    case ActionKind::kYield:
      if (Status yielded = context_.guest.yield(); !yielded) {
        log_line(LogLevel::kError, yielded.error().to_text());
      }
      return std::nullopt;
    case ActionKind::kSendDiscarded: {
      Error reason = make_error(ErrorCode::kCancelled, "the target gave up");
      if (attempt_error_) reason = *std::exchange(attempt_error_, std::nullopt);
      if (error_ && action.scope == AbortScope::kSession) reason = *error_;
      return send(
          wire::Discarded{action.attempt, action.scope, std::move(reason).on(Side::kTarget)});
    }
    case ActionKind::kSendAnswer:
      return send(wire::Answer{static_cast<wire::JournalState>(action.answer.state),
                               action.answer.attempt, action.answer.boot,
                               action.answer.process_lives});
    case ActionKind::kDiscardGuest:
      context_.stop_lanes();
      context_.guest.discard();
      return std::nullopt;
  }
  return std::nullopt;
}

std::optional<TargetEvent> TargetDriver::load(std::uint32_t attempt) {
  auto loaded = context_.load(attempt);
  if (!loaded) {
    remember(std::move(loaded).error().on(Side::kTarget));
    return event(Kind::kLoadFailed, attempt);
  }
  if (!*loaded) return std::nullopt;
  ready_ = **loaded;
  return event(Kind::kLoaded, attempt);
}

std::optional<TargetEvent> TargetDriver::ask_arbiter() {
  auto granted = context_.arbiter->acquire(context_.session, Side::kTarget);
  if (!granted) {
    remember(std::move(granted).error().at(Phase::kHandover).on(Side::kTarget));
    return event(Kind::kArbiterUnknown);
  }
  return event(*granted ? Kind::kArbiterGranted : Kind::kArbiterDenied);
}

std::optional<TargetEvent> TargetDriver::start_guest() {
  const auto begin = context_.clock.now();
  Status started = context_.guest.start(context_.run_state());
  started_at_ = context_.clock.now();
  start_us_ = to_us(started_at_ - begin);
  if (started) return event(Kind::kGuestStarted);
  const bool unsure = started.error().code == ErrorCode::kGuestLost;
  remember(std::move(started).error().at(Phase::kStart).on(Side::kTarget));
  return event(unsure ? Kind::kStartUnsure : Kind::kStartFailed);
}

}  // namespace migrate::session
