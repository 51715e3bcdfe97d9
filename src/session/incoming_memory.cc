// The guest's memory at the target: barriers, regions that come and go, what the offer is held
// against, loading.
#include <algorithm>

#include "session/incoming_impl.hpp"
#include "session/verification.hpp"

namespace migrate {
namespace {

using session::TargetEvent;
using std::chrono::duration;

double to_ms(nanoseconds time) { return duration<double, std::milli>(time).count(); }

std::uint64_t to_us(nanoseconds time) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(time).count());
}

}  // namespace

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

/// Nothing: the attempt is as good as given up, and the source's word for it is on the way.
Result<std::optional<wire::Ready>> Incoming::Impl::load(std::uint32_t) {
  const bool all_here = lazy_ == Lazy::kNone ? final_applied_ : lazy_ == Lazy::kStands;
  if (!all_here || !state_.complete() || pending_regions_) {
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
  memory_loaded_ = true;
  Status loaded = guest_->load_state(state_);
  if (loaded) loaded = let_guest_wait();
  if (!loaded) return std::move(loaded).error().at(Phase::kStateLoad);
  const auto acquire_begin = clock_.now();
  Status acquired = guest_->acquire();
  if (!acquired && awaits_abort(acquired.error())) {
    driver_->note_attempt(std::move(acquired).error().at(Phase::kHandover));
    return std::optional<wire::Ready>();
  }
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
  return std::optional(ready);
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
  // What is to follow is not looked at: that would fetch it.
  PageBitmap missing;
  if (lazy_target_ != nullptr) missing = lazy_target_->missing();
  MIGRATE_ASSIGN(const std::uint64_t digest,
                 session::full_digest(*ledger_, *digest_, read, &missing));
  verify_us = to_us(clock_.now() - begin);
  report_.phases_ms.verify = static_cast<double>(verify_us) / 1000;
  const char* const equal = strategy_ == Strategy::kPostcopy ? "off" : "equal";  // Holes alone.
  report_.integrity.full = digest == offer_->full_digest ? equal : "unequal";
  if (digest == offer_->full_digest) return {};
  return make_error(ErrorCode::kIntegrity, "this host's memory is not what was received")
      .at(Phase::kVerify)
      .advise("the guest goes on at the source; check this host's memory");
}

}  // namespace migrate
