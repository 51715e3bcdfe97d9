#include <algorithm>

#include "base/guarded.hpp"
#include "session/incoming_impl.hpp"
#include "session/verification.hpp"

namespace migrate {
namespace {

using session::AbortScope;
using session::Introductions;
using session::TargetEvent;
using session::TargetState;
using std::chrono::duration;
using std::chrono::milliseconds;

constexpr milliseconds kReplyPatience{1'000};

double to_ms(nanoseconds time) { return duration<double, std::milli>(time).count(); }

std::uint64_t to_us(nanoseconds time) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(time).count());
}

/// Whether a record still means something when the guest's owner is settled.
bool is_of_the_end(wire::RecordType type) {
  return type == wire::RecordType::kCommit || type == wire::RecordType::kAbort ||
         type == wire::RecordType::kReleased || type == wire::RecordType::kPing;
}

bool is_state(wire::RecordType type) {
  return type == wire::RecordType::kSectionBegin || type == wire::RecordType::kSectionData ||
         type == wire::RecordType::kSectionEnd || type == wire::RecordType::kStateEnd;
}

}  // namespace

// Until the guest's owner is settled on this side.
void Incoming::Impl::serve(Introductions& introductions) {
  while (!driver_->machine().ended()) {
    if (resume_until_) {
      await_resume(introductions);
    } else if (resuming_ == Resuming::kLanes) {
      await_lanes(introductions);
    } else if (link_lost_) {
      if (replace_control(introductions, lease_over())) continue;
      if (gate_.load() == Gate::kCancelled) {
        serve_cancel();
      } else {
        driver_->drive(TargetEvent::Kind::kTick);
      }
    } else {
      serve_record(introductions);
    }
  }
  report_.total_ms = elapsed_ms();
  report_.bytes.wire += control_ != nullptr ? control_->received_bytes() : 0;
}

// After the end the source may still ask how it ended: its link may have broken at the wrong
// moment.
void Incoming::Impl::linger(Introductions& introductions) {
  const bool may_ask = driver_->ready_was_sent() && !released_;
  if (may_ask) {
    linger_until_ = clock_.now() + options_.ask_window;
    while (!released_ && clock_.now() < linger_until_) {
      if (link_lost_) {
        if (!replace_control(introductions, linger_until_)) break;
      } else {
        serve_record(introductions);
      }
    }
  }
  // Only a source that may have seen READY ever asks.
  if (released_ || !driver_->ready_was_sent()) driver_->journal().remove();
}

SteadyTime Incoming::Impl::lease_over() const {
  const auto deadline = driver_->machine().deadline();
  if (!deadline) return clock_.now() + options_.peer_timeout;
  // A tick early would be fed again at once; a little late costs nothing.
  return clock_.now() + std::max(nanoseconds(0), *deadline - clock_.boottime()) + milliseconds(1);
}

nanoseconds Incoming::Impl::patience() const {
  const auto now = clock_.now();
  if (driver_->machine().ended())
    return std::max<nanoseconds>(linger_until_ - now, milliseconds(1));
  if (driver_->machine().deadline()) return lease_over() - now;
  return options_.peer_timeout;
}

void Incoming::Impl::serve_record(Introductions& introductions) {
  auto record = receive(patience());
  if (!record) return serve_wake(introductions);
  if (!*record) {
    Error error = std::move(*record).error();
    if (error.code == ErrorCode::kTimeout) return serve_silence(std::move(error));
    return serve_failure(std::move(error));
  }
  Status taken = guarded([&] { return take(**record); });
  note_resumable();
  // A lane's failure is the reason when waiting for its barrier failed.
  if (!taken) serve_failure(std::move(taken).error());
}

// A cancel, a lane's failure, or an ASK or RESUME on another connection.
void Incoming::Impl::serve_wake(Introductions& introductions) {
  if (gate_.load() == Gate::kCancelled && !driver_->machine().ended()) return serve_cancel();
  if (driver_->machine().state() != TargetState::kReceiving) {
    replace_control(introductions, clock_.now());
    return;
  }
  if (auto lane = receivers_->failure(); lane && resuming_ == Resuming::kNo) {
    return serve_failure(*std::move(lane));
  }
  if (!introductions.has_resuming()) return;
  Error back = make_error(ErrorCode::kLinkLost, "the source has come back on another connection");
  if (may_resume_after(back)) suspend(std::move(back));
}

void Incoming::Impl::serve_cancel() {
  driver_->fail(
      make_error(ErrorCode::kCancelled, "receiving was cancelled at the target").on(Side::kTarget));
}

void Incoming::Impl::serve_silence(Error error) {
  if (driver_->machine().deadline()) return driver_->drive(TargetEvent::Kind::kTick);
  if (driver_->machine().state() == TargetState::kReceiving) {
    error.message = "the source fell silent";
  }
  serve_failure(std::move(error));
}

void Incoming::Impl::serve_failure(Error error) {
  const bool ended = driver_->machine().ended();
  const bool receiving = driver_->machine().state() == TargetState::kReceiving;
  if (error.code == ErrorCode::kCancelled && gate_.load() == Gate::kCancelled && !ended) {
    return serve_cancel();
  }
  if (ended) {
    link_lost_ = true;
    return;
  }
  if (error.phase == Phase::kNone) {
    error.phase = !receiving ? Phase::kHandover : in_rounds() ? Phase::kRounds : attempt_phase_;
  }
  if (may_resume_after(error)) return suspend(std::move(error));
  if (error.side == Side::kNone) error.side = Side::kTarget;
  link_lost_ = error.side != Side::kSource || error.code == ErrorCode::kLinkLost;
  if (link_lost_ && !receiving) {
    // The machine decides what a READY on a broken link is worth.
    driver_->remember(std::move(error));
    return driver_->drive(TargetEvent::Kind::kLinkLost);
  }
  driver_->fail(std::move(error));
}

bool Incoming::Impl::replace_control(Introductions& introductions, SteadyTime until) {
  auto asking = introductions.take_asking(until);
  if (asking == nullptr) return false;
  say("asked", "the source reconnected and asks what became of the guest", Phase::kHandover);
  driver_->use(asking.get());
  control_ = std::move(asking);
  asked_ = true;
  link_lost_ = false;
  driver_->drive(TargetEvent::Kind::kAsk);
  return true;
}

/// For errors of an attempt.
void Incoming::Impl::note_phase(wire::RecordType type) {
  if (is_state(type)) attempt_phase_ = Phase::kStateSave;
  if (type == wire::RecordType::kBarrier) attempt_phase_ = Phase::kFinalPages;
  if (type == wire::RecordType::kOffer) attempt_phase_ = Phase::kHandover;
}

Status Incoming::Impl::take(const RecordChannel::Record& record) {
  // What was on its way when this side came to its end means nothing any more.
  if (driver_->machine().ended() && !is_of_the_end(record.header.type)) return {};
  const bool of_rounds = record.header.type == wire::RecordType::kRegions ||
                         record.header.type == wire::RecordType::kBarrier ||
                         record.header.type == wire::RecordType::kOffer;
  if (resuming_ != Resuming::kNo && (of_rounds || is_state(record.header.type))) {
    return RecordChannel::unexpected(record, wire::RecordType::kVoidEnd);
  }
  note_phase(record.header.type);
  switch (record.header.type) {
    case wire::RecordType::kPing: {
      MIGRATE_ASSIGN(const auto ping, wire::decode<wire::Ping>(record.body));
      return control_->send(wire::Pong{ping.nonce, ping.time_ns}, kReplyPatience);
    }
    case wire::RecordType::kResumeTerms: {
      MIGRATE_ASSIGN(const auto terms, wire::decode<wire::ResumeTerms>(record.body));
      return take_resume_terms(terms);
    }
    case wire::RecordType::kVoid: {
      MIGRATE_ASSIGN(const auto pages, wire::decode<wire::Void>(record.body));
      return take_void(pages);
    }
    case wire::RecordType::kVoidEnd: {
      MIGRATE_ASSIGN(const auto end, wire::decode<wire::VoidEnd>(record.body));
      return take_void_end(end);
    }
    case wire::RecordType::kRegions: {
      MIGRATE_ASSIGN(auto regions, wire::decode<wire::Regions>(record.body));
      if (pending_regions_) return make_error(ErrorCode::kProtocol, "REGIONS twice in a round");
      pending_regions_ = std::move(regions);
      return check_regions(*pending_regions_);
    }
    case wire::RecordType::kBarrier: {
      MIGRATE_ASSIGN(const auto barrier, wire::decode<wire::Barrier>(record.body));
      return take_barrier(barrier);
    }
    case wire::RecordType::kSectionBegin:
    case wire::RecordType::kSectionData:
    case wire::RecordType::kSectionEnd:
    case wire::RecordType::kStateEnd:
      return take_state(record);
    case wire::RecordType::kOffer: {
      MIGRATE_ASSIGN(const auto offer, wire::decode<wire::Offer>(record.body));
      return take_offer(offer);
    }
    case wire::RecordType::kCommit: {
      MIGRATE_ASSIGN(const auto commit, wire::decode<wire::Commit>(record.body));
      return take_commit(commit);
    }
    case wire::RecordType::kAbort: {
      MIGRATE_ASSIGN(auto abort, wire::decode<wire::Abort>(record.body));
      return take_abort(std::move(abort));
    }
    case wire::RecordType::kReleased:
      released_ = driver_->machine().ended();
      return {};
    default:
      return RecordChannel::unexpected(record, wire::RecordType::kBarrier);
  }
}

Status Incoming::Impl::take_state(const RecordChannel::Record& record) {
  switch (record.header.type) {
    case wire::RecordType::kSectionBegin: {
      MIGRATE_ASSIGN(const auto begin, wire::decode<wire::SectionBegin>(record.body));
      return state_.take(begin);
    }
    case wire::RecordType::kSectionData:
      return state_.take_data(record.body);
    case wire::RecordType::kSectionEnd: {
      MIGRATE_ASSIGN(const auto end, wire::decode<wire::SectionEnd>(record.body));
      return state_.take(end);
    }
    default: {
      MIGRATE_ASSIGN(const auto end, wire::decode<wire::StateEnd>(record.body));
      return state_.take(end);
    }
  }
}

Status Incoming::Impl::take_commit(const wire::Commit& commit) {
  const auto& machine = driver_->machine();
  // Only a COMMIT that can start the guest makes a cancel come too late.
  if (machine.state() == TargetState::kReady && commit.attempt == machine.attempt()) {
    Gate open = Gate::kOpen;
    if (!gate_.compare_exchange_strong(open, Gate::kClosed) && open == Gate::kCancelled) {
      return make_error(ErrorCode::kCancelled, "receiving was cancelled");
    }
  }
  driver_->drive(TargetEvent::Kind::kCommit, commit.attempt);
  return {};
}

Status Incoming::Impl::take_abort(wire::Abort abort) {
  const auto& machine = driver_->machine();
  if (abort.scope == wire::AbortScope::kAttempt) {
    // Of an attempt before the current one: it has ended already, and its end has been served.
    if (machine.ended() || abort.attempt < machine.attempt()) return {};
    state_.reset();
    offer_.reset();
    driver_->drive(TargetEvent::Kind::kAbort, abort.attempt, abort.scope);
    if (std::exchange(final_applied_, false) && !machine.ended()) receivers_->pass_barrier();
    return {};
  }
  driver_->remember(std::move(abort.error).on(Side::kSource));
  // A source that had to ask waits for the answer to this, and may ask again.
  released_ = !machine.committed() && !asked_;
  driver_->drive(TargetEvent::Kind::kAbort, abort.attempt, abort.scope);
  return {};
}

Status Incoming::Impl::take_barrier(const wire::Barrier& barrier) {
  if (barrier.round != round_ || final_applied_) {
    return make_error(ErrorCode::kProtocol, "the barrier of round " +
                                                std::to_string(barrier.round) + " came in round " +
                                                std::to_string(round_));
  }
  const auto begin = clock_.now();
  MIGRATE_ASSIGN(const BulkArrivals arrivals,
                 receivers_->wait_for_barrier(barrier.round, barrier.final));
  if (arrivals.carried != barrier.pages || arrivals.digest_change != barrier.digest_change) {
    return make_error(ErrorCode::kIntegrity, "round " + std::to_string(barrier.round) +
                                                 " arrived with other pages than were sent");
  }
  memory_digest_ += arrivals.digest_change;
  if (pending_regions_) MIGRATE_TRY(apply_regions());
  const auto now = clock_.now();
  note_round(arrivals, now);
  // The round is complete, whether the source hears of it or the link is lost on the way.
  const wire::BarrierAck ack{round_++, memory_digest_};
  acknowledged_digest_ = memory_digest_;
  if (barrier.final) {
    final_applied_ = true;
    final_apply_us_ = to_us(now - begin);
    report_.phases_ms.final_pages = to_ms(now - begin);
    // It goes with READY, unless the source waits for it before it hashes its memory.
    if (verify_ == VerifyMode::kFull) return control_->send(ack, options_.peer_timeout);
    return control_->send_later(ack, options_.peer_timeout);
  }
  report_.phases_ms.rounds = elapsed_ms() - report_.phases_ms.setup;
  receivers_->pass_barrier();
  MIGRATE_TRY(control_->send(ack, options_.peer_timeout));
  say("round-end", std::to_string(arrivals.carried) + " pages arrived", Phase::kRounds);
  return open_host();
}

void Incoming::Impl::note_round(const BulkArrivals& arrivals, SteadyTime now) {
  RoundReport round;
  round.round = round_;
  round.start_ms = to_ms(round_begin_ - begin_);
  round.pages = arrivals.carried;
  round.bytes = arrivals.wire_bytes;
  round.ms = to_ms(now - round_begin_);
  report_.rounds.push_back(round);
  report_.pages.raw += arrivals.raw;
  report_.pages.zero += arrivals.zero;
  report_.pages.delta += arrivals.delta;
  report_.pages.duplicate += arrivals.duplicate;
  report_.pages.compressed += arrivals.compressed;
  report_.bytes.wire += arrivals.wire_bytes;
  report_.bytes.guest += arrivals.carried * kPageSize;
  report_.cpu_s += duration<double>(arrivals.cpu).count();
  round_begin_ = now;
}

Status Incoming::Impl::check_regions(const wire::Regions& change) const {
  std::vector<std::uint32_t> removed;
  for (const wire::RegionHandle handle : change.removed) {
    if (ledger_->find(handle.number) == nullptr) {
      return make_error(ErrorCode::kProtocol, "region handle " + std::to_string(handle.number) +
                                                  " is removed but not known");
    }
    removed.push_back(handle.number);
  }
  std::sort(removed.begin(), removed.end());
  if (std::adjacent_find(removed.begin(), removed.end()) != removed.end()) {
    return make_error(ErrorCode::kProtocol, "a region is removed twice at once");
  }
  if (!change.added.empty() && change.first_handle.number != ledger_->next_handle()) {
    return make_error(ErrorCode::kProtocol, "added regions begin with handle " +
                                                std::to_string(change.first_handle.number) +
                                                ", the next one is " +
                                                std::to_string(ledger_->next_handle()));
  }
  return {};
}

Status Incoming::Impl::apply_regions() {
  const wire::Regions change = *std::exchange(pending_regions_, std::nullopt);
  RegionDelta delta;
  delta.added = change.added;
  for (const wire::RegionHandle handle : change.removed) {
    const PageLedger::Entry* entry = ledger_->find(handle.number);
    for (std::uint64_t page = 0; page < entry->hashes.size(); ++page) {
      memory_digest_ -= digest_->mix(handle, page, entry->hashes[page]);
    }
    delta.removed.push_back(entry->region.id);
  }
  // The guest first: whether there is room for what the source claims, only it can say.
  MIGRATE_TRY(guest_->pages().update_regions(delta));
  for (const wire::RegionHandle handle : change.removed) {
    MIGRATE_TRY(ledger_->remove(handle.number));
  }
  std::uint32_t handle = change.first_handle.number;
  for (const Region& region : change.added) MIGRATE_TRY(ledger_->add(handle++, region));
  return {};
}

Status Incoming::Impl::open_host() {
  if (std::exchange(host_open_, true)) return {};
  return host_.on_ready();
}

Status Incoming::Impl::take_offer(const wire::Offer& offer) {
  // Another one is not of an attempt that can still begin: the machine knows what to say.
  if (!driver_->machine().ended() && offer.attempt > driver_->machine().attempt()) offer_ = offer;
  driver_->drive(TargetEvent::Kind::kOffer, offer.attempt);
  return {};
}

Result<wire::Ready> Incoming::Impl::load(std::uint32_t) {
  if (!final_applied_ || !state_.complete() || pending_regions_) {
    return make_error(ErrorCode::kProtocol, "OFFER came before all memory and state")
        .at(Phase::kFinalPages);
  }
  if (offer_->digest != memory_digest_ || offer_->total_pages != ledger_->pages()) {
    report_.integrity.digest = "unequal";
    return make_error(ErrorCode::kIntegrity,
                      "the memory received has another digest than what was sent")
        .at(Phase::kVerify)
        .advise("the guest goes on at the source; send again, and report it if it happens twice");
  }
  MIGRATE_TRY(check_nothing_is_void());
  report_.integrity.digest = "equal";
  wire::Ready ready;
  ready.digest = memory_digest_;
  ready.final_apply_us = final_apply_us_;
  MIGRATE_TRY(verify_full(ready.verify_us));
  const auto load_begin = clock_.now();
  state_.rewind();
  Status loaded = guest_->load_state(state_);
  if (!loaded) return std::move(loaded).error().at(Phase::kStateLoad);
  const auto acquire_begin = clock_.now();
  Status acquired = guest_->acquire();
  if (!acquired) return std::move(acquired).error().at(Phase::kHandover);
  const auto end = clock_.now();
  ready.state_load_us = to_us(acquire_begin - load_begin);
  ready.acquire_us = to_us(end - acquire_begin);
  report_.phases_ms.state_load = to_ms(end - load_begin);
  if (Status open = open_host(); !open) {
    // The source hears of it before the guest is dropped, and wants its locks back.
    Status yielded = guest_->yield();
    static_cast<void>(yielded);
    return std::move(open).error().at(Phase::kHandover);
  }
  return ready;
}

Status Incoming::Impl::verify_full(std::uint64_t& verify_us) {
  if (!offer_->has_full_digest) return {};
  const auto begin = clock_.now();
  const auto read = [this](const RegionId& region, PageRange range,
                           std::span<std::byte> into) -> Result<bool> {
    MIGRATE_TRY(keep_alive());
    MIGRATE_TRY(guest_->pages().read(region, range, into));
    return true;
  };
  MIGRATE_ASSIGN(const std::uint64_t digest,
                 session::full_digest(*ledger_, *digest_, read, nullptr));
  verify_us = to_us(clock_.now() - begin);
  report_.phases_ms.verify = static_cast<double>(verify_us) / 1000;
  report_.integrity.full = digest == offer_->full_digest ? "equal" : "unequal";
  if (digest == offer_->full_digest) return {};
  return make_error(ErrorCode::kIntegrity, "this host's memory is not what was received")
      .at(Phase::kVerify)
      .advise("the guest goes on at the source; check this host's memory");
}

}  // namespace migrate
