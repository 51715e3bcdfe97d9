#include <algorithm>

#include "base/guarded.hpp"
#include "session/incoming_impl.hpp"

namespace migrate {
namespace {

using session::AbortScope;
using session::Introductions;
using session::TargetEvent;
using session::TargetState;
using std::chrono::milliseconds;

constexpr milliseconds kReplyPatience{1'000};

/// Whether a record still means something when the guest's owner is settled.
bool is_of_the_end(wire::RecordType type) {
  return type == wire::RecordType::kCommit || type == wire::RecordType::kAbort ||
         type == wire::RecordType::kReleased || type == wire::RecordType::kPing ||
         type == wire::RecordType::kForward;
}

bool is_state(wire::RecordType type) {
  return type == wire::RecordType::kSectionBegin || type == wire::RecordType::kSectionData ||
         type == wire::RecordType::kSectionEnd || type == wire::RecordType::kStateEnd;
}

}  // namespace

// Until the guest's owner is settled on this side.
void Incoming::Impl::serve(Introductions& introductions) {
  while (!driver_->machine().ended()) {
    Status served = guarded([&]() -> Status {
      serve_once(introductions);
      return {};
    });
    if (!served) serve_failure(std::move(served).error());
  }
  report_.total_ms = elapsed_ms();
  report_.bytes.wire += control_ != nullptr ? control_->received_bytes() : 0;
}

void Incoming::Impl::serve_once(Introductions& introductions) {
  if (resume_until_) return await_resume(introductions);
  if (resuming_ == Resuming::kLanes) return await_lanes(introductions);
  if (!link_lost_) return serve_record(introductions);
  if (replace_control(introductions, lease_over())) return;
  if (gate_.load() == Gate::kCancelled) return serve_cancel();
  driver_->drive(TargetEvent::Kind::kTick);
}

// After the end the source may still ask how it ended: its link may have broken at the wrong
// moment.
void Incoming::Impl::linger(Introductions& introductions) {
  fill(introductions);
  // A guest that has ended, whose source is away: what it needs to know stands in the journal.
  if (filling_over_) return;
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
  if (lazy_target_ != nullptr) {
    if (auto lane = lazy_target_->failure()) serve_failure(*std::move(lane));
    return;
  }
  if (receivers_ == nullptr) return;
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
  if (may_resume_after(error)) {
    if (hear_last_word()) return;
    return suspend(std::move(error));
  }
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
  answer_asking(std::move(asking));
  return true;
}

void Incoming::Impl::answer_asking(std::unique_ptr<RecordChannel> asking) {
  say("asked", "the source reconnected and asks what became of the guest", Phase::kHandover);
  driver_->use(asking.get());
  control_ = std::move(asking);
  asked_ = true;
  link_lost_ = false;
  driver_->drive(TargetEvent::Kind::kAsk);
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
                         record.header.type == wire::RecordType::kOffer ||
                         record.header.type == wire::RecordType::kLazy;
  const bool of_pages = record.header.type == wire::RecordType::kRegions ||
                        record.header.type == wire::RecordType::kBarrier;
  if (lazy_ != Lazy::kNone && of_pages) {
    return RecordChannel::unexpected(record, wire::RecordType::kVoidEnd);
  }
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
      return lazy_ != Lazy::kNone ? take_lazy_void_end(end) : take_void_end(end);
    }
    case wire::RecordType::kLazy: {
      MIGRATE_ASSIGN(const auto lazy, wire::decode<wire::Lazy>(record.body));
      return take_lazy(lazy);
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
    case wire::RecordType::kForward: {
      // Before COMMIT the frames are the source's guest's, and there is none here to have them; and
      // a connection that was opened to ask carries nothing else.
      if (!forward_agreed_ || !driver_->machine().ended() || asked_) {
        return RecordChannel::unexpected(record, wire::RecordType::kCommit);
      }
      MIGRATE_ASSIGN(auto forward, wire::decode<wire::Forward>(record.body));
      return take_forward(std::move(forward));
    }
    case wire::RecordType::kReleased:
      if (lazy_target_ != nullptr && driver_->machine().ended() && !lazy_target_->complete()) {
        return make_error(ErrorCode::kProtocol,
                          "the source has let the guest go, and some of its memory is not here");
      }
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
      if (PacketSink* const sink = guest_->packet_sink(); sink != nullptr && !state_.begun()) {
        sink->source_stands();
      }
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

void Incoming::Impl::tell_network() {
  if (takeover_ == nullptr) return;
  Status told = guarded([&]() -> Status {
    takeover_->taken_over({to_text(session_id_), description_.name, driver_->started_at()});
    return {};
  });
  static_cast<void>(told);
}

Status Incoming::Impl::take_forward(wire::Forward forward) {
  const bool here = driver_->machine().state() == TargetState::kStarted;
  const std::size_t bytes = forward.frame.size();
  if (here && guest_->packet_sink()->deliver({forward.card, std::move(forward.frame)})) {
    ++report_.forwarded.frames;
    report_.forwarded.bytes += bytes;
  } else {
    ++report_.forwarded.dropped;
  }
  return {};
}

Status Incoming::Impl::take_abort(wire::Abort abort) {
  const auto& machine = driver_->machine();
  if (abort.scope == wire::AbortScope::kAttempt) return take_abort_of_attempt(abort.attempt);
  driver_->remember(std::move(abort.error).on(Side::kSource));
  // A source that had to ask waits for the answer to this, and may ask again.
  released_ = !machine.committed() && !asked_;
  driver_->drive(TargetEvent::Kind::kAbort, abort.attempt, abort.scope);
  return {};
}

}  // namespace migrate
