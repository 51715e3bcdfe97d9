#include "session/source_driver.hpp"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/guarded.hpp"

namespace migrate::session {
namespace {

using std::chrono::milliseconds;
using Kind = SourceEvent::Kind;
using ActionKind = SourceAction::Kind;

// ABORT is a courtesy: the target's own deadlines end the session too. It must not hold up the
// guest.
constexpr milliseconds kAbortPatience{200};
// A target that is not reached by ABORT holds its locks until its lease has run out: 10 s unless it
// was told otherwise, and as much again for a loaded host. Only kBusy is worth waiting for.
constexpr milliseconds kReclaimPatience{20'000};
constexpr milliseconds kReclaimPauseFirst{1};
constexpr milliseconds kReclaimPauseMax{20};
// An operator who resolves by hand waits at the terminal, and has seen the long window pass.
constexpr milliseconds kOperatorPatience{10'000};
// How long a target may ask for patience after OFFER, while the guest stands still. What it does
// then is known: it waits for the final pages that are in the sockets' buffers (tens of MiB, so ten
// times a peer timeout of 30 s suffice for 100 KiB/s), and with --verify full it hashes its memory,
// for which the source has just taken a time of its own: twenty times that is a far slower host, or
// one that swaps.
constexpr int kPeerTimeoutsAfterOffer = 10;
constexpr int kOwnHashingsAfterOffer = 20;
// After post-copy's STARTED, for frames that have waited: 512 of them at 10 us each.
constexpr milliseconds kLazyForward{5};
constexpr milliseconds kBackoffFirst{50};
constexpr milliseconds kBackoffMax{1'000};

}  // namespace

SourceDriver::SourceDriver(Context context, std::unique_ptr<RecordChannel> control)
    : context_(std::move(context)),
      control_(std::move(control)),
      machine_(context_.keys.target_boot, context_.arbiter != nullptr),
      forwarder_(context_.packets, context_.clock) {}

void SourceDriver::use(Connector& connector) {
  context_.connector = &connector;
  connector.set_session(context_.keys.id_text);
  context_.watch = [](Channel*) {};
  context_.say = [](const std::string&, const std::string&) {};
  context_.options.ask_window =
      std::min<milliseconds>(context_.options.ask_window, kOperatorPatience);
  resolving_ = true;
  ask_until_.reset();
  backoff_ = nanoseconds{0};
  error_.reset();
  refusal_ = Refusal::kNone;
}

SourceEvent SourceDriver::event(Kind kind) const {
  SourceEvent event;
  event.kind = kind;
  event.now = context_.clock.boottime();
  return event;
}

void SourceDriver::drive(Kind kind) { drive(event(kind)); }

void SourceDriver::drive(SourceEvent first) {
  lazy_ = lazy_ || first.lazy;
  std::optional<SourceEvent> next = first;
  while (next) {
    const SourceActions actions = machine_.on(*next);
    next.reset();
    for (const SourceAction& action : actions) {
      bool skip_rest = false;
      if (auto result = perform(action, skip_rest)) next = std::move(result);
      if (skip_rest) break;
    }
  }
}

void SourceDriver::remember(Error error) {
  if (!error_) error_ = std::move(error);
}

void SourceDriver::fail(Error error) {
  // A peer that is silent may only be slow, and holds locks: unlike a lost link it can be told.
  const bool link = error.code == ErrorCode::kLinkLost;
  const bool cancelled = error.code == ErrorCode::kCancelled;
  remember(std::move(error));
  drive(cancelled ? Kind::kCancel : link ? Kind::kLinkLost : Kind::kFailure);
}

std::optional<SourceEvent> SourceDriver::perform(const SourceAction& action, bool& skip_rest) {
  switch (action.kind) {
    case ActionKind::kPauseGuest:
      return pause_guest(skip_rest);
    case ActionKind::kRelinquish:
      if (Status status = context_.guest.relinquish(); !status) {
        remember(std::move(status).error().at(Phase::kHandover).on(Side::kSource));
        skip_rest = true;
        return event(Kind::kFailure);
      }
      return std::nullopt;
    case ActionKind::kSendOffer: {
      offered_ = true;
      auto result =
          send(control_->send(context_.make_offer(action.attempt), context_.options.peer_timeout));
      times_.offered_at = context_.clock.now();
      ready_until_ = times_.offered_at + kPeerTimeoutsAfterOffer * context_.options.peer_timeout +
                     kOwnHashingsAfterOffer * context_.hash_took();
      return result;
    }
    case ActionKind::kSendCommit:
      // From here on there is no way back, and nothing may stay behind unsent.
      set_hard_deadline(std::nullopt);
      context_.guest.committing();
      return send(control_->send(wire::Commit{action.attempt}, context_.options.peer_timeout));
    case ActionKind::kSendAbort:
      send_abort(action);
      return std::nullopt;
    case ActionKind::kConnect:
      return connect();
    case ActionKind::kSendAsk:
      return send(control_->send(wire::Ask{context_.keys.id, context_.keys.secret},
                                 context_.options.hello_timeout));
    case ActionKind::kAskArbiter:
      return ask_arbiter();
    case ActionKind::kReclaim:
      return reclaim();
    case ActionKind::kResumeGuest:
      return resume_guest();
    case ActionKind::kReleaseGuest:
      release_guest();
      return std::nullopt;
    case ActionKind::kSendReleased:
      send_released(action.attempt);
      return std::nullopt;
    case ActionKind::kRefuse:
      refusal_ = action.refusal;
      return std::nullopt;
  }
  return std::nullopt;
}

std::optional<SourceEvent> SourceDriver::send(Status sent) {
  if (sent) return std::nullopt;
  remember(std::move(sent).error().on(Side::kSource));
  return event(Kind::kLinkLost);
}

std::optional<SourceEvent> SourceDriver::pause_guest(bool& skip_rest) {
  offered_ = abort_owed_ = false;
  auto paused = context_.guest.pause();
  times_.paused_at = context_.clock.now();
  if (!paused) {
    remember(std::move(paused).error().at(Phase::kQuiesce).on(Side::kSource));
    skip_rest = true;
    return event(Kind::kFailure);
  }
  guest_paused_ = true;
  times_.run_before = paused->before;
  times_.stopped_at = paused->stopped_at;
  return std::nullopt;
}

void SourceDriver::send_abort(const SourceAction& action) {
  if (control_ == nullptr || link_failed_) return;
  // The target hears of it between rounds only.
  abort_owed_ = action.scope == AbortScope::kAttempt && !offered_;
  if (abort_owed_) return;
  Error reason = action.scope == AbortScope::kAttempt
                     ? out_of_time()
                     : error_.value_or(make_error(ErrorCode::kCancelled, "the source gave up"));
  // A cancel that is still on its way must not meet the word that says so.
  context_.watch(nullptr);
  control_->channel().resume_after_interrupt();
  const auto scope = action.scope == AbortScope::kAttempt ? wire::AbortScope::kAttempt
                                                          : wire::AbortScope::kSession;
  // The first ABORT may fail on a link that is gone; nothing depends on it.
  // Of an attempt: the session goes on, and what does not leave now leaves while the guest runs.
  const nanoseconds patience = hard_deadline_ && scope == wire::AbortScope::kAttempt
                                   ? nanoseconds(context_.options.peer_timeout)
                                   : kAbortPatience;
  const bool told = static_cast<bool>(
      control_->send(wire::Abort{action.attempt, scope, std::move(reason)}, patience));
  told_end_ = told && action.scope == AbortScope::kSession;
  if (scope == wire::AbortScope::kAttempt) context_.watch(&control_->channel());
}

/// A target that has started a guest whose memory follows needs it for as long as it waits.
nanoseconds SourceDriver::ask_window() const {
  const nanoseconds window = context_.options.ask_window;
  if (!lazy_ || resolving_) return window;
  return std::max<nanoseconds>(window, reconnect_of_postcopy(context_.options));
}

std::optional<SourceEvent> SourceDriver::connect() {
  context_.watch(nullptr);
  control_.reset();
  forwarder_.stop();
  if (!ask_until_) {
    ask_until_ = context_.clock.now() + ask_window();
    context_.say("reconnecting",
                 "the link was lost after COMMIT: asking the target what became of "
                 "the guest");
  }
  for (;;) {
    const auto now = context_.clock.now();
    if (now >= *ask_until_) return event(Kind::kAskWindowOver);
    const nanoseconds left = *ask_until_ - now;
    if (backoff_.count() > 0) std::this_thread::sleep_for(std::min(backoff_, left));
    backoff_ = std::clamp<nanoseconds>(backoff_ * 2, kBackoffFirst, kBackoffMax);
    auto channel =
        context_.connector->connect(std::min<nanoseconds>(left, context_.options.connect_timeout));
    if (!channel) {
      remember(std::move(channel).error().at(Phase::kHandover).on(Side::kSource));
      continue;
    }
    control_ = std::make_unique<RecordChannel>(*std::move(channel), context_.keys.hasher);
    control_->set_mid_record_idle(context_.options.peer_timeout);
    link_failed_ = false;
    context_.watch(&control_->channel());
    return event(Kind::kConnected);
  }
}

std::optional<SourceEvent> SourceDriver::ask_arbiter() {
  auto granted = context_.arbiter->acquire(context_.keys.id_text, Side::kSource);
  if (!granted) {
    remember(std::move(granted).error().at(Phase::kHandover).on(Side::kSource));
    return event(Kind::kArbiterUnknown);
  }
  return event(*granted ? Kind::kArbiterGranted : Kind::kArbiterDenied);
}

std::optional<SourceEvent> SourceDriver::reclaim() {
  const auto until = context_.clock.now() + kReclaimPatience;
  for (nanoseconds pause = kReclaimPauseFirst;;
       pause = std::min<nanoseconds>(pause * 2, kReclaimPauseMax)) {
    Status reclaimed = context_.guest.reclaim();
    if (reclaimed) return event(Kind::kReclaimed);
    if (reclaimed.error().code != ErrorCode::kBusy || context_.clock.now() >= until) {
      remember(std::move(reclaimed).error().at(Phase::kHandover).on(Side::kSource));
      return event(Kind::kReclaimFailed);
    }
    std::this_thread::sleep_for(pause);
  }
}

std::optional<SourceEvent> SourceDriver::resume_guest() {
  // A pause that failed has left the guest as it was.
  if (!std::exchange(guest_paused_, false)) return std::nullopt;
  forwarder_.give_back();
  if (times_.run_before == RunState::kPaused) return std::nullopt;
  Status resumed = context_.guest.resume();
  times_.resumed_at = context_.clock.now();
  if (resumed) return std::nullopt;
  remember(std::move(resumed).error().on(Side::kSource));
  return event(Kind::kResumeFailed);
}

void SourceDriver::set_hard_deadline(std::optional<SteadyTime> deadline) {
  hard_deadline_ = deadline;
  if (control_ != nullptr) control_->set_detached(deadline.has_value());
}

Status SourceDriver::tell_given_up() {
  if (!std::exchange(abort_owed_, false)) return {};
  return control_->send(wire::Abort{machine_.attempt(), wire::AbortScope::kAttempt, out_of_time()},
                        context_.options.peer_timeout);
}

Error SourceDriver::out_of_time() const {
  return make_error(
      ErrorCode::kTimeout,
      "the target was not ready for the guest within " +
          format_duration(context_.options.downtime_hard.value_or(std::chrono::microseconds(0))) +
          " of its last instruction (--downtime-hard)");
}

void SourceDriver::release_guest() {
  if (Status released = context_.guest.release(); !released) {
    context_.say("release-failed", released.error().to_text());
  }
}

void SourceDriver::send_released(std::uint32_t attempt) {
  if (control_ == nullptr) return;
  // Lets the target stop waiting for questions; it times out by itself otherwise.
  Status told = control_->send(wire::Released{attempt}, kAbortPatience);
  static_cast<void>(told);
}

std::optional<Error> SourceDriver::lanes_failure() const {
  return context_.lanes_failure ? context_.lanes_failure() : std::nullopt;
}

Error SourceDriver::never_ready() const {
  return make_error(ErrorCode::kTimeout,
                    "the target was not ready for the guest within " +
                        format_duration(std::chrono::duration_cast<milliseconds>(
                            ready_until_ - times_.offered_at)) +
                        " of OFFER, though it said that it lives")
      .advise("see the target's load and its output; --peer-timeout at the source allows for more");
}

void SourceDriver::step(nanoseconds idle_max) {
  if (control_ == nullptr) return drive(Kind::kLinkLost);
  // A target that hashes its memory says that it is there; once COMMIT is sent its silence counts.
  const bool offered = machine_.state() == SourceState::kOffered;
  const bool bounded = offered && hard_deadline_;
  const auto receive = [&] {
    return guarded([&] {
      if (bounded) return control_->receive_whole(*hard_deadline_);
      if (!offered) return control_->receive(idle_max);
      return control_->receive_alive(
          idle_max, [&] { return context_.clock.now() < ready_until_ && !lanes_failure(); });
    });
  };
  if (machine_.committed() && forwarder_.active()) {
    const auto until = context_.clock.now() + idle_max;
    forwarder_.run(*control_, until);
    idle_max = std::max(nanoseconds(0), until - context_.clock.now());
  }
  auto record = receive();
  // The final round's acknowledgement says nothing that READY does not say again.
  while (record && record->header.type == wire::RecordType::kBarrierAck) {
    record = receive();
  }
  auto next = record ? guarded([&] { return to_event(*record); })
                     : Result<SourceEvent>(std::move(record).error());
  if (next) {
    const bool started = next->kind == Kind::kStarted && next->attempt == machine_.attempt();
    if (started && machine_.committed()) note_started();
    return drive(*std::move(next));
  }
  if (machine_.committed()) {
    // Whatever it was, the target may run the guest: only its answer counts now.
    remember(std::move(next).error().at(Phase::kHandover));
    return drive(Kind::kLinkLost);
  }
  const bool silent = next.error().code == ErrorCode::kTimeout && next.error().side == Side::kNone;
  if (bounded && silent && context_.clock.now() >= *hard_deadline_) {
    return drive(Kind::kHardDeadline);
  }
  if (offered && next.error().code == ErrorCode::kTimeout && context_.clock.now() >= ready_until_) {
    next = never_ready();
  }
  if (auto lanes = offered ? lanes_failure() : std::nullopt) next = *std::move(lanes);
  link_failed_ = next.error().code == ErrorCode::kLinkLost;
  fail(std::move(next).error().at(Phase::kHandover));
}

/// The guest runs at the target; the network may take a while to notice.
void SourceDriver::note_started() {
  if (!forwarder_.active()) return;
  forwarder_.started();
  // The guest waits for its memory, which is served by who is called next.
  if (lazy_) {
    forwarder_.run_once(*control_, context_.clock.now() + kLazyForward);
    return forwarder_.stop();
  }
  forwarder_.run(*control_, context_.clock.now() + context_.options.forward);
  forwarder_.stop();
}

Result<SourceEvent> SourceDriver::to_event(const RecordChannel::Record& record) {
  SourceEvent result = event(Kind::kFailure);
  switch (record.header.type) {
    case wire::RecordType::kReady: {
      MIGRATE_ASSIGN(const auto ready, wire::decode<wire::Ready>(record.body));
      return on_ready(ready);
    }
    case wire::RecordType::kStarted: {
      MIGRATE_ASSIGN(const auto started, wire::decode<wire::Started>(record.body));
      times_.started_at = context_.clock.now();
      times_.started = started;
      result.kind = Kind::kStarted;
      result.attempt = started.attempt;
      return result;
    }
    case wire::RecordType::kDiscarded: {
      MIGRATE_ASSIGN(auto discarded, wire::decode<wire::Discarded>(record.body));
      // Of an attempt: the session goes on.
      if (discarded.scope == wire::AbortScope::kSession) {
        remember(std::move(discarded.error).on(Side::kTarget));
      }
      result.kind = Kind::kDiscarded;
      result.scope = discarded.scope;
      result.attempt = discarded.attempt;
      return result;
    }
    case wire::RecordType::kAnswer: {
      MIGRATE_ASSIGN(const auto answer, wire::decode<wire::Answer>(record.body));
      result.kind = Kind::kAnswer;
      result.answer.state = static_cast<RecordState>(answer.state);
      result.answer.attempt = answer.attempt;
      result.answer.boot = answer.boot;
      result.answer.process_lives = answer.process_lives;
      return result;
    }
    default:
      return RecordChannel::unexpected(record, wire::RecordType::kReady);
  }
}

void SourceDriver::take_answer(const RecordChannel::Record& record) {
  auto answer = to_event(record);
  if (answer) drive(*std::move(answer));
}

Result<SourceEvent> SourceDriver::on_ready(const wire::Ready& ready) {
  SourceEvent result = event(Kind::kReady);
  result.attempt = ready.attempt;
  result.lease = nanoseconds(static_cast<std::int64_t>(ready.lease_ns));
  if (ready.attempt != machine_.attempt() || machine_.state() != SourceState::kOffered)
    return result;
  times_.ready_at = context_.clock.now();
  times_.ready = ready;
  MIGRATE_TRY(context_.check_ready(ready));
  if (!context_.close_gate()) {
    return make_error(ErrorCode::kCancelled, "the migration was cancelled");
  }
  return result;
}

void SourceDriver::settle() {
  while (machine_.state() == SourceState::kOffered || machine_.state() == SourceState::kCommitted ||
         machine_.state() == SourceState::kAsking) {
    nanoseconds patience = context_.options.peer_timeout;
    if (ask_until_) {
      patience =
          std::clamp<nanoseconds>(*ask_until_ - context_.clock.now(), milliseconds(1), patience);
    }
    step(patience);
  }
}

}  // namespace migrate::session
