// After a lost link: the source comes back to its target, and rounds go on from the last one that
// was acknowledged. The guest runs all the while, and its tracker goes on. See "After a lost link"
// in docs/wire-format.md.
#include <algorithm>

#include "session/outgoing_impl.hpp"
#include "session/void_stream.hpp"

namespace migrate {
namespace {

using session::SourceState;
using std::chrono::duration;
using std::chrono::milliseconds;

// The first try comes at once: a lane's connection may have been reset by anything. Then a target
// or a switch that starts anew is not hammered, and is found within 5 s.
constexpr milliseconds kBackoffFirst{100};
constexpr milliseconds kBackoffMax{5'000};
// For the word that nobody comes back any more. Without it the target keeps the guest's name and
// memory until its window is over. The guest runs here meanwhile; all that waits is `send`, and
// only where the target cannot be reached. A second was too short for a TLS handshake with a busy
// host.
constexpr milliseconds kEndPatience{5'000};

/// Whether another try may do better: the link failed once more, or the target's host (its
/// listener, say) is busy. All else is an answer.
bool may_pass(const Error& error) {
  return error.code == ErrorCode::kLinkLost || error.code == ErrorCode::kTimeout ||
         error.code == ErrorCode::kConnectFailed || error.code == ErrorCode::kBusy;
}

}  // namespace

/// Of an error as it came: one that has a side is the peer's word, or the guest's own code's.
bool Outgoing::Impl::is_of_link(const Error& error) {
  return error.side == Side::kNone &&
         (error.code == ErrorCode::kLinkLost || error.code == ErrorCode::kTimeout);
}

bool Outgoing::Impl::may_resume_after(const Error& error) const {
  return error.side != Side::kTarget && resume_agreed_ && gate_.load() != Gate::kCancelled;
}

Result<precopy::RoundOutcome> Outgoing::Impl::run_round() {
  auto outcome = rounds_->run();
  while (!outcome) {
    const bool of_link = is_of_link(outcome.error());
    // The target may have failed: then its reason is on the way.
    Error error = explain(std::move(outcome).error());
    if (!of_link || !may_resume_after(error)) return error;
    MIGRATE_ASSIGN(const auto closed, reconnect(std::move(error)));
    if (closed) return *closed;
    outcome = rounds_->run();
  }
  return outcome;
}

void Outgoing::Impl::drop_lanes() {
  {
    MutexLock lock(watch_mutex_);
    sending_ = nullptr;
  }
  // Of a round that broke off.
  if (senders_ != nullptr) bulk_.wire_bytes += senders_->wire_bytes_now();
  senders_.reset();
}

/// Until rounds can go on: the round whose acknowledgement alone was lost, or nullopt. An error
/// when they cannot: `lost` when the time is over.
Result<std::optional<precopy::RoundOutcome>> Outgoing::Impl::reconnect(Error lost) {
  const auto begin = clock_.now();
  const auto window = reconnect_in_rounds(options_);
  const auto until = begin + window - std::min<nanoseconds>(without_link_, window);
  say("reconnecting", "the link was lost, connecting again: " + lost.message, Phase::kRounds);
  driver_->control().channel().shutdown();
  drop_lanes();
  std::optional<precopy::RoundOutcome> closed;
  std::string last;
  for (;;) {
    Status ready = pause_before_connecting(until);
    if (!ready) break;
    ready = resume(closed, until);
    if (ready) {
      const nanoseconds took = clock_.now() - begin;
      without_link_ += took;
      ++report_.reconnects.count;
      report_.reconnects.ms += duration<double, std::milli>(took).count();
      if (closed) closed->took = std::max(nanoseconds(0), closed->took - took);
      say("reconnected", "going on with round " + std::to_string(rounds_->round()), Phase::kRounds);
      return closed;
    }
    Error error = std::move(ready).error();
    if (gate_.load() == Gate::kCancelled || !may_pass(error)) return error;
    last = std::move(error.message);
  }
  if (gate_.load() == Gate::kCancelled) {
    return make_error(ErrorCode::kCancelled, "the migration was cancelled");
  }
  lost.message += "; connecting again did not help within " + format_duration(window);
  if (!last.empty()) lost.message += " (" + last + ")";
  return std::move(lost).advise(
      "check the link and the target's output, then send again; --reconnect waits longer");
}

void Outgoing::Impl::grow_backoff() {
  backoff_ = std::clamp<nanoseconds>(backoff_ * 2, kBackoffFirst, kBackoffMax);
}

/// An error when there is no time for another try, or the migration was cancelled.
Status Outgoing::Impl::pause_before_connecting(SteadyTime until) {
  const auto now = clock_.now();
  const auto next = std::min(until, now + backoff_);
  grow_backoff();
  MutexLock lock(watch_mutex_);
  while (gate_.load() != Gate::kCancelled && clock_.now() < next) {
    cancelled_.wait_until(watch_mutex_, next);
  }
  if (gate_.load() != Gate::kCancelled && clock_.now() < until) return {};
  return make_error(ErrorCode::kTimeout, "there is no time left to connect again");
}

/// A new control lane, before anything is said on it.
Result<std::unique_ptr<RecordChannel>> Outgoing::Impl::connect_to_target(
    const OutgoingOptions& hasty) {
  use_connector(connector_);
  auto channel = connector_->connect(hasty.connect_timeout);
  use_connector(nullptr);
  if (!channel) {
    // Whatever keeps it from connecting, a name that does not resolve among it, is the link.
    Error error = std::move(channel).error();
    if (error.code != ErrorCode::kCancelled) error.code = ErrorCode::kConnectFailed;
    return error;
  }
  if ((*channel)->peer_identity() != target_identity_) {
    return make_error(ErrorCode::kUnauthorized,
                      (*channel)->peer() + " is not the host that took the session")
        .advise("check where the target's address leads to");
  }
  return std::make_unique<RecordChannel>(*std::move(channel), driver_->keys().hasher);
}

/// One try, from connecting to the lanes.
Status Outgoing::Impl::resume(std::optional<precopy::RoundOutcome>& closed, SteadyTime until) {
  OutgoingOptions hasty = options_;
  const auto left = std::chrono::ceil<milliseconds>(until - clock_.now());
  hasty.connect_timeout = std::min(options_.connect_timeout, left);
  hasty.hello_timeout = std::min(options_.hello_timeout, left);
  const session::SourceKeys& keys = driver_->keys();
  MIGRATE_ASSIGN(auto connected, connect_to_target(hasty));
  watch(nullptr);
  control_booked_ = 0;
  driver_->replace_control(std::move(connected));
  RecordChannel& control = driver_->control();
  control.set_mid_record_idle(options_.peer_timeout);
  watch(&control.channel());
  MIGRATE_TRY(
      control.send(wire::Resume{keys.id, keys.secret, rounds_->round()}, hasty.hello_timeout));
  MIGRATE_ASSIGN(const auto resumed, control.expect<wire::Resumed>(hasty.hello_timeout));
  MIGRATE_ASSIGN(auto outcome, rounds_->reconcile(resumed.round, resumed.digest));
  if (outcome) closed = std::move(outcome);
  MIGRATE_TRY(tell_void_pages());
  use_connector(connector_);
  auto lanes = session::join_lanes(
      *connector_, {keys.id, keys.secret, keys.hasher}, bulk_lanes_, hasty,
      [this](Channel* lane) { watch(lane); }, control.channel());
  use_connector(nullptr);
  if (!lanes) return std::move(lanes).error();
  make_senders(*std::move(lanes));
  rounds_->use(*senders_, control);
  return {};
}

/// The session is over before OFFER, and the target, which may wait for RESUME, has not been told:
/// one try to reach it. It waits also where a lane of the final pages was lost before it had read
/// that the rounds are over.
Status Outgoing::Impl::tell_end_anew() {
  const bool kept = driver_->machine().state() == SourceState::kKept;
  const bool offered = phase_ == Phase::kHandover || phase_ == Phase::kPostcopy;
  if (!kept || offered || !resume_agreed_ || driver_->told_end()) return {};
  undo_throttle();  // The guest runs here, and this may take a while.
  const auto until = clock_.now() + kEndPatience;
  const auto left = [&] { return std::max<nanoseconds>(until - clock_.now(), milliseconds(1)); };
  const session::SourceKeys& keys = driver_->keys();
  // A target that still waits for something there looks up.
  driver_->control().channel().shutdown();
  drop_lanes();
  // A cancel may have broken off the last try; what is told here is that cancel.
  connector_->resume_after_interrupt();
  MIGRATE_ASSIGN(auto channel, connector_->connect(left()));
  if (channel->peer_identity() != target_identity_) return {};
  RecordChannel control(std::move(channel), keys.hasher);
  control.set_mid_record_idle(left());
  MIGRATE_TRY(control.send(wire::Resume{keys.id, keys.secret, rounds_->round()}, left()));
  MIGRATE_ASSIGN(const auto resumed, control.expect<wire::Resumed>(left()));
  static_cast<void>(resumed);
  const Error reason =
      driver_->error().value_or(make_error(ErrorCode::kCancelled, "the source gave up"));
  return control.send(wire::Abort{0, wire::AbortScope::kSession, reason}, left());
}

Status Outgoing::Impl::tell_void_pages() {
  RecordChannel& control = driver_->control();
  const PageBitmap& set = rounds_->void_set();
  MIGRATE_TRY(session::send_void(control, set, *ledger_, options_.peer_timeout));
  MIGRATE_TRY(control.send(wire::VoidEnd{set.count(), rounds_->digest()}, options_.peer_timeout));
  MIGRATE_ASSIGN(const auto voided, control.expect<wire::Voided>(options_.peer_timeout));
  if (voided.digest == rounds_->digest()) return {};
  return make_error(ErrorCode::kIntegrity,
                    "after the link was lost the target's memory has another digest than what it "
                    "acknowledged")
      .advise("the guest goes on here; send again, and report it if it happens twice");
}

}  // namespace migrate
