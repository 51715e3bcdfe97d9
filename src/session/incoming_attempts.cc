// An attempt that the source gave up: what loading its state has written to memory is found and
// told, and rounds go on. See "A hard limit" in docs/handover.md.
#include "base/guarded.hpp"
#include "precopy/void_pages.hpp"
#include "session/incoming_impl.hpp"
#include "session/verification.hpp"

namespace migrate {

using session::TargetState;

Status Incoming::Impl::take_abort_of_attempt(std::uint32_t attempt) {
  const auto& machine = driver_->machine();
  // Of an attempt before the current one: it has ended already, and its end has been served.
  if (machine.ended() || attempt < machine.attempt()) return {};
  state_.reset();
  offer_.reset();
  // The locks are let go, and the source hears so, before anything that takes time.
  driver_->drive(session::TargetEvent::Kind::kAbort, attempt, session::AbortScope::kAttempt);
  if (machine.ended()) return {};
  // No rounds follow, only the session's end; and whoever read this memory now would wait for ever.
  if (lazy_ != Lazy::kNone) {
    lazy_ = Lazy::kAnnounced;  // No OFFER is taken any more.
    return {};
  }
  if (attempts_agreed_) MIGRATE_TRY(tell_forgotten());
  if (std::exchange(final_applied_, false)) receivers_->pass_barrier();
  return {};
}

/// The lanes stand at the final barrier meanwhile.
Status Incoming::Impl::tell_forgotten() {
  std::uint64_t pages = 0;
  if (std::exchange(memory_loaded_, false)) {
    MIGRATE_ASSIGN(const PageBitmap changed, find_changed());
    pages = changed.count();
    if (pages > 0) {
      forgot_pages_ = true;
      precopy::make_void(*ledger_, changed);
      memory_digest_ = precopy::digest_of(*ledger_, *digest_);
      MIGRATE_TRY(session::send_void(*control_, changed, *ledger_, options_.peer_timeout));
    }
    say("attempt-abandoned",
        std::to_string(pages) + " pages were written by loading the state, and will come again",
        Phase::kRounds);
  }
  acknowledged_digest_ = memory_digest_;
  return control_->send(wire::VoidEnd{pages, memory_digest_}, options_.peer_timeout);
}

/// Pages whose content is not what came: state was loaded over them.
Result<PageBitmap> Incoming::Impl::find_changed() {
  const std::vector<Region> regions = ledger_->regions();
  PageBitmap changed(regions);
  const auto read = [this](const RegionId& region, PageRange range,
                           std::span<std::byte> into) -> Result<bool> {
    MIGRATE_TRY(keep_alive());
    MIGRATE_TRY(guest_->pages().read(region, range, into));
    return true;
  };
  MIGRATE_TRY(session::find_changed(*ledger_, *digest_, read, changed));
  return changed;
}

/// The source has let go of its locks before OFFER. That they are taken says that it has given the
/// attempt up and its ABORT is on the way, unless somebody else has them.
bool Incoming::Impl::awaits_abort(const Error& error) const {
  // One that was paused is waited for as long as it takes.
  const bool bounded = offer_ && offer_->run_state == RunState::kRunning;
  return attempts_agreed_ && bounded && error.code == ErrorCode::kBusy;
}

}  // namespace migrate
