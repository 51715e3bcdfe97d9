#include "base/guarded.hpp"
#include "session/outgoing_impl.hpp"
#include "session/state_stream.hpp"
#include "session/verification.hpp"

namespace migrate {
namespace {

using session::SourceEvent;
using session::SourceState;

// While READY is awaited the source has nothing else to do. At least some pages are looked at even
// when READY is fast (32 pages take about 30 us with cold caches), and at most so many that a slow
// target does not turn the sample into a second full pass.
constexpr std::uint64_t kSamplePagesMin = 32;
constexpr std::uint64_t kSamplePagesMax = 65536;
constexpr std::uint64_t kSampleStep = 32;
// Before each step the source sleeps for READY: hashing without a rest would keep the processor
// from a target (or guests) on the same host, which waited 2 ms and more for it on a busy one.
constexpr std::chrono::microseconds kSamplePause{50};
// A round beside the saving of state ends with an acknowledgement: over a longer way than this
// waiting for it may take longer than what it saves.
constexpr double kSettledRoundTripMsMax = 10;

}  // namespace

void Outgoing::Impl::switchover() {
  phase_ = Phase::kQuiesce;
  say("switchover", "pausing the guest", Phase::kQuiesce);
  attempt_start_ms_ = elapsed_ms();
  full_digest_.reset();
  verify_took_ = nanoseconds(0);
  driver_->drive(SourceEvent::Kind::kBegin);
  if (driver_->machine().state() != SourceState::kPaused) return;
  use_switchover_bandwidth();
  bound_attempt();
  Status sent = guarded([&] { return send_everything(); });
  if (sent) sent = in_time();
  if (!sent) {
    Error error = std::move(sent).error();
    if (was_late(error)) return driver_->drive(SourceEvent::Kind::kHardDeadline);
    return driver_->fail(explain(std::move(error)));
  }
  phase_ = Phase::kHandover;
  auto offerable = driver_->event(SourceEvent::Kind::kOfferable);
  offerable.lazy = lazy_;
  driver_->drive(offerable);
  if (driver_->machine().state() == SourceState::kOffered) {
    if (Status clean = guarded([&] { return sample_clean_pages(); }); !clean) {
      return driver_->fail(std::move(clean).error().at(Phase::kVerify).on(Side::kSource));
    }
  }
  driver_->settle();
  const SourceState state = driver_->machine().state();
  if (state == SourceState::kReleased || state == SourceState::kServing) {
    report_.integrity.digest = "equal";
    // Of pure post-copy nothing is here to be hashed, but holes.
    if (full_digest_ && options_.strategy != Strategy::kPostcopy) report_.integrity.full = "equal";
  }
}

// Device state first: saving it may dirty memory, so the last collect comes when it says that
// memory is final. The final pages then leave beside the rest of the state.
Status Outgoing::Impl::send_everything() {
  const bool paused_all_along = options_.strategy == Strategy::kStopCopy;
  const auto save_begin = clock_.now();
  phase_ = Phase::kStateSave;
  SteadyTime inner_begin{};
  nanoseconds inner{0};
  PageBitmap late;  // With post-copy: what was written since that was announced.
  session::StateSender state(
      driver_->control(), options_.peer_timeout, [this] { return send_settled(); },
      [&]() -> Status {
        inner_begin = clock_.now();
        phase_ = Phase::kFinalSync;
        if (paused_all_along) MIGRATE_TRY(rounds_->start_paused());
        if (lazy_) {
          MIGRATE_ASSIGN(late, rounds_->finish_lazy([this](PageBitmap& set) { widen(set); }));
        } else {
          MIGRATE_TRY(rounds_->begin_final());
        }
        phase_ = Phase::kStateSave;
        inner = clock_.now() - inner_begin;
        return {};
      },
      [this] { return in_time(); });
  Status saved = guest_->save_state(state);
  if (late_ || !saved) {
    // No section stays open where the link can still say so.
    Status closed = state.close();
    if (saved) MIGRATE_TRY(std::move(closed));
  }
  if (!saved) return std::move(saved).error().on(Side::kSource);
  MIGRATE_TRY(state.finish());
  book_control();
  save_took_ = clock_.now() - save_begin - inner;
  // Pages began to leave inside the save; what of that was the collect is told apart.
  final_begin_ = clock_.now() - (inner - rounds_->final_collect());
  phase_ = Phase::kFinalPages;
  if (lazy_) {
    MIGRATE_TRY(offer_lazily(late));
    return verify_full();
  }
  // Hashing is not counted as downtime, so nothing may be under way beside it.
  const bool full = options_.verify == VerifyMode::kFull;
  MIGRATE_ASSIGN(const auto outcome, rounds_->finish_final(full));
  bulk_ += outcome.bulk;
  return verify_full();
}

/// One more round, beside the saving of state: what the guest wrote need not wait for the end of
/// that. A limit of the attempt's time is kept by the final round only.
Status Outgoing::Impl::send_settled() {
  const bool in_rounds = options_.strategy != Strategy::kStopCopy && !lazy_ && !attempt_until_;
  if (!in_rounds || round_trip_ms_ > kSettledRoundTripMsMax) return {};
  const double start_ms = elapsed_ms();
  round_pages_ = rounds_->pages_left();
  MIGRATE_ASSIGN(const auto outcome, rounds_->run_settled());
  note_round(outcome, start_ms);
  return {};
}

Result<bool> Outgoing::Impl::read_pages(const RegionId& region, PageRange range,
                                        std::span<std::byte> into) {
  MIGRATE_TRY(keep_alive());
  MIGRATE_ASSIGN(const ReadOutcome outcome, guest_->pages().read(region, range, into));
  return outcome == ReadOutcome::kRead;
}

Status Outgoing::Impl::verify_full() {
  if (options_.verify != VerifyMode::kFull) return {};
  phase_ = Phase::kVerify;
  const auto begin = clock_.now();
  const auto read = [this](const RegionId& region, PageRange range, std::span<std::byte> into) {
    return read_pages(region, range, into);
  };
  MIGRATE_ASSIGN(full_digest_, session::full_digest(*ledger_, *digest_, read, &rounds_->holes()));
  verify_took_ = clock_.now() - begin;
  extend_attempt(verify_took_);
  if (*full_digest_ != rounds_->digest()) {
    report_.integrity.full = "unequal";
    return make_error(ErrorCode::kIntegrity,
                      "the guest's memory is not what was sent: the dirty tracker (" +
                          std::string(guest_->tracker().name()) + ") missed a write")
        .on(Side::kSource)
        .advise("the guest goes on here; report the tracker and kernel, or use another tracker");
  }
  return {};
}

Status Outgoing::Impl::sample_clean_pages() {
  const auto read = [this](const RegionId& region, PageRange range, std::span<std::byte> into) {
    return read_pages(region, range, into);
  };
  std::uint64_t looked_at = 0;
  const auto stop = [&] {
    const bool news = looked_at % kSampleStep == 0 && driver_->control().has_news(kSamplePause);
    const bool enough = looked_at++ >= kSamplePagesMin;
    return (news && enough) || !in_time();
  };
  auto sampled =
      session::sample_pages(*ledger_, *digest_, read, &rounds_->holes(), kSamplePagesMax, stop);
  if (sampled) {
    if (options_.strategy != Strategy::kPostcopy) report_.integrity.sampled = "equal";
    return {};
  }
  // A page that could not be read, or a link that was lost meanwhile, is neither.
  if (sampled.error().code == ErrorCode::kIntegrity) report_.integrity.sampled = "unequal";
  return std::move(sampled).error();
}

wire::Offer Outgoing::Impl::make_offer(std::uint32_t attempt) const {
  wire::Offer offer;
  offer.attempt = attempt;
  offer.run_state = driver_->times().run_before;
  offer.digest = rounds_->digest();
  offer.has_full_digest = full_digest_.has_value();
  offer.full_digest = full_digest_.value_or(0);
  offer.total_pages = ledger_->pages();
  return offer;
}

Status Outgoing::Impl::check_ready(const wire::Ready& ready) {
  if (ready.digest == rounds_->digest()) {
    // It has the list of what it lacks.
    if (lazy_source_ != nullptr) lazy_source_->lead(lazy_first_);
    return {};
  }
  report_.integrity.digest = "unequal";
  return make_error(ErrorCode::kIntegrity,
                    "the target's memory has another digest than what was sent")
      .on(Side::kSource)
      .advise("the guest goes on here; send again, and report it if it happens twice");
}

}  // namespace migrate
