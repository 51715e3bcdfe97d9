// The hard limit of the downtime: a switchover whose target is not ready in time is given up, the
// guest goes on at once, and pre-copy with it. See "A hard limit" in docs/handover.md.
#include <algorithm>

#include "session/attempt_policy.hpp"
#include "session/outgoing_impl.hpp"
#include "session/void_stream.hpp"

namespace migrate {
namespace {

using session::SourceState;
using std::chrono::duration;
using std::chrono::milliseconds;

// Hashing for --verify full is left out of the limit. What the target's takes is not known before
// READY tells: it has as long as twice what this side took for the same pages.
constexpr int kTargetHashings = 2;

// So much before the limit it is over: from there a thread has to wake up, look at what came last,
// and let the vCPUs go, which took up to 2.8 ms on a machine of two processors.
constexpr std::chrono::microseconds kLettingGo{1500};
constexpr int kLettingGoShareMax = 10;  // A tenth of a limit that is shorter than 15 ms.

// How long the target may take to hash its memory when it has loaded a state in vain, as long as it
// says that it is there: 300 s by default, 1 TiB at a few GB/s.
constexpr int kPeerTimeoutsForAccount = 10;
// What may have crossed ABORT: an acknowledgement, READY, DISCARDED, and as much from before.
constexpr int kCrossedMax = 6;

double to_ms(nanoseconds time) { return duration<double, std::milli>(time).count(); }

}  // namespace

Status Outgoing::Impl::check_attempts() const {
  if (!options_.downtime_hard || options_.strategy != Strategy::kStopCopy) return {};
  return make_error(ErrorCode::kInvalidArgument,
                    "with strategy stop-copy all memory is sent while the guest stands, and there "
                    "are no rounds to go on with after --downtime-hard")
      .advise("leave out --downtime-hard, or use --strategy precopy");
}

/// Rounds and switchovers, until one of these has settled whose the guest is.
Status Outgoing::Impl::hand_over() {
  for (;;) {
    phase_ = Phase::kRounds;
    const double begin_ms = elapsed_ms();
    Status ready = approach();
    report_.phases_ms.rounds += elapsed_ms() - begin_ms;
    MIGRATE_TRY(std::move(ready));
    switchover();
    unbound_attempt();
    if (driver_->machine().state() == SourceState::kServing) serve_lazily();
    if (driver_->machine().state() != SourceState::kRunning) return {};
    MIGRATE_TRY(after_attempt());
  }
}

/// All that comes before the guest is paused.
Status Outgoing::Impl::approach() {
  if (options_.strategy == Strategy::kStopCopy) return {};
  MIGRATE_TRY(options_.strategy == Strategy::kPostcopy ? prepare_postcopy() : precopy());
  return lazy_ ? begin_lazy() : Status{};
}

void Outgoing::Impl::bound_attempt() {
  late_ = false;
  const auto& times = driver_->times();
  if (!options_.downtime_hard || times.run_before == RunState::kPaused) return;
  const auto limit = *options_.downtime_hard;
  attempt_until_ = times.stopped_at + limit - std::min(kLettingGo, limit / kLettingGoShareMax);
  rounds_->set_deadline(attempt_until_);
  driver_->set_hard_deadline(attempt_until_);
}

/// This side has hashed all its memory, and the target is about to.
void Outgoing::Impl::extend_attempt(nanoseconds by) {
  if (!attempt_until_) return;
  *attempt_until_ += by * (1 + kTargetHashings);
  driver_->set_hard_deadline(attempt_until_);
}

void Outgoing::Impl::unbound_attempt() {
  attempt_until_.reset();
  rounds_->set_deadline(std::nullopt);
  driver_->set_hard_deadline(std::nullopt);
}

Status Outgoing::Impl::in_time() {
  if (!attempt_until_ || clock_.now() < *attempt_until_) return {};
  late_ = true;
  return make_error(ErrorCode::kTimeout, "the downtime has reached its hard limit");
}

/// Whether `error` says no more than that. What says more ends the migration.
bool Outgoing::Impl::was_late(const Error& error) {
  if (!attempt_until_ || clock_.now() < *attempt_until_) return false;
  return late_ || (error.code == ErrorCode::kTimeout && error.side != Side::kTarget);
}

/// The attempt was given up and the guest runs again: what it has left is put in order.
Status Outgoing::Impl::after_attempt() {
  const auto& times = driver_->times();
  FailedAttempt failed;
  failed.attempt = driver_->machine().attempt();
  failed.start_ms = attempt_start_ms_;
  failed.stood_ms = to_ms(times.resumed_at - times.stopped_at);
  failed.phase = to_string(phase_);
  report_.failed_attempts.push_back(failed);
  say("attempt-abandoned",
      "attempt " + std::to_string(failed.attempt) + ": the target was not ready within " +
          format_duration(*options_.downtime_hard) + " (" + failed.phase +
          "); the guest goes on after " + std::to_string(failed.stood_ms) + " ms",
      phase_);
  phase_ = Phase::kRounds;
  use_round_rate(0);
  // Until rounds go on nothing is gained by holding the guest back.
  undo_throttle();
  if (convergence_) convergence_->attempt_failed();
  const auto next = session::next_attempt(
      static_cast<std::uint32_t>(report_.failed_attempts.size()), options_.max_attempts);
  // With post-copy the lanes have changed their trade: there are no rounds to go on with.
  if (lazy_) return late_for_postcopy();
  if (next.give_up) return too_many_attempts();
  MIGRATE_TRY(close_attempt());
  report_.failed_attempts.back().cost_ms = elapsed_ms() - attempt_start_ms_;
  return pause_after_attempt(next.pause);
}

Error Outgoing::Impl::late_for_postcopy() const {
  return make_error(ErrorCode::kTimeout, "the target was not ready for the guest within " +
                                             format_duration(*options_.downtime_hard) + " (" +
                                             report_.failed_attempts.back().phase +
                                             "), and with post-copy there is one attempt")
      .at(Phase::kHandover)
      .on(Side::kSource)
      .advise("the guest goes on here; send it again, or raise --downtime-hard");
}

Error Outgoing::Impl::too_many_attempts() const {
  return make_error(ErrorCode::kNotConverging,
                    "the target was not ready for the guest within " +
                        format_duration(*options_.downtime_hard) + " in any of " +
                        std::to_string(report_.failed_attempts.size()) + " switchovers, last in " +
                        report_.failed_attempts.back().phase)
      .at(Phase::kHandover)
      .on(Side::kSource)
      .advise(
          "the guest goes on here; see what the target does meanwhile, raise --downtime-hard or "
          "--max-attempts, or lower --max-downtime so that less is left for the switchover");
}

Status Outgoing::Impl::close_attempt() {
  MIGRATE_ASSIGN(const auto outcome, rounds_->abandon_final());
  FailedAttempt& failed = report_.failed_attempts.back();
  failed.pages = outcome.bulk.carried;
  bulk_ += outcome.bulk;
  MIGRATE_TRY(driver_->tell_given_up());
  book_control();
  return await_attempt_end();
}

/// What crossed ABORT, and then the target's own account of the attempt.
Status Outgoing::Impl::await_attempt_end() {
  RecordChannel& control = driver_->control();
  const std::vector<Region> regions = ledger_->regions();
  session::VoidSet forgotten(regions);
  const auto until = clock_.now() + kPeerTimeoutsForAccount * options_.peer_timeout;
  int crossed = 0;
  for (;;) {
    MIGRATE_ASSIGN(const auto record, control.receive_alive(options_.peer_timeout,
                                                            [&] { return clock_.now() < until; }));
    const bool account = record.header.type == wire::RecordType::kVoid ||
                         record.header.type == wire::RecordType::kVoidEnd;
    if (!account && ++crossed > kCrossedMax) {
      return RecordChannel::unexpected(record, wire::RecordType::kVoidEnd);
    }
    switch (record.header.type) {
      case wire::RecordType::kBarrierAck:
      case wire::RecordType::kReady:
        break;
      case wire::RecordType::kDiscarded: {
        MIGRATE_ASSIGN(auto discarded, wire::decode<wire::Discarded>(record.body));
        if (discarded.scope == wire::AbortScope::kAttempt) break;
        return std::move(discarded.error).on(Side::kTarget);
      }
      case wire::RecordType::kVoid: {
        MIGRATE_ASSIGN(const auto pages, wire::decode<wire::Void>(record.body));
        MIGRATE_TRY(forgotten.take(pages, *ledger_));
        break;
      }
      case wire::RecordType::kVoidEnd: {
        MIGRATE_ASSIGN(const auto end, wire::decode<wire::VoidEnd>(record.body));
        MIGRATE_TRY(forgotten.check(end));
        MIGRATE_TRY(rounds_->go_on(forgotten.set()));
        if (end.digest == rounds_->digest()) return {};
        return make_error(ErrorCode::kIntegrity,
                          "after an attempt was given up the target's memory has another digest "
                          "than what was sent")
            .advise("the guest goes on here; send again, and report it if it happens twice");
      }
      default:
        return RecordChannel::unexpected(record, wire::RecordType::kVoidEnd);
    }
  }
}

/// The guest runs meanwhile, and its writes are tracked.
Status Outgoing::Impl::pause_after_attempt(nanoseconds pause) {
  const auto until = clock_.now() + pause;
  while (clock_.now() < until) {
    MIGRATE_TRY(keep_alive());
    const auto next =
        std::min(until, clock_.now() + RecordChannel::alive_period(options_.peer_timeout));
    MutexLock lock(watch_mutex_);
    while (gate_.load() != Gate::kCancelled && clock_.now() < next) {
      cancelled_.wait_until(watch_mutex_, next);
    }
    if (gate_.load() == Gate::kCancelled) {
      return make_error(ErrorCode::kCancelled, "the migration was cancelled");
    }
  }
  return {};
}

}  // namespace migrate
