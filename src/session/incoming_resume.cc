// After a lost link: the target waits for its source to come back, and rounds go on. See "After a
// lost link" in docs/wire-format.md.
#include "base/guarded.hpp"
#include "precopy/void_pages.hpp"
#include "session/incoming_impl.hpp"

namespace migrate {
namespace {

using session::Introductions;
using session::TargetState;
using std::chrono::duration;
using std::chrono::milliseconds;

// A source that connects at the end of its window may find this host slow to answer.
constexpr milliseconds kResumeMargin{2'000};
constexpr milliseconds kReplyPatience{1'000};
// A source that gives up says so, and then drops its lanes: what it said comes on another
// connection and may be this much later. A source that wants to come back loses no more than that.
constexpr milliseconds kLastWordPatience{5};

Error not_due() { return make_error(ErrorCode::kProtocol, "void pages came where none may"); }

}  // namespace

bool Incoming::Impl::in_rounds() const {
  return driver_->machine().state() == TargetState::kReceiving && !final_applied_ &&
         !state_.begun() && lazy_ == Lazy::kNone;
}

bool Incoming::Impl::may_resume_after(const Error& error) const {
  const bool link = error.code == ErrorCode::kLinkLost || error.code == ErrorCode::kTimeout;
  return link && error.side == Side::kNone && resume_window_.count() > 0 && in_rounds() &&
         gate_.load() != Gate::kCancelled;
}

// Called for each RESUME, from another thread: a wait for the old lanes' barrier must not outlast
// them.
void Incoming::Impl::on_resume() noexcept {
  MutexLock lock(watch_mutex_);
  if (receiving_ != nullptr && resumable_) receiving_->abandon();
}

void Incoming::Impl::note_resumable() {
  const bool resumable = resume_window_.count() > 0 && in_rounds();
  MutexLock lock(watch_mutex_);
  resumable_ = resumable;
}

Status Incoming::Impl::take_resume_terms(const wire::ResumeTerms& terms) {
  if (!resume_agreed_ || resume_window_.count() > 0 || round_ > 0) {
    return make_error(ErrorCode::kProtocol, "RESUME_TERMS twice, too late, or not agreed");
  }
  resume_window_ = milliseconds(terms.window_ms);
  return {};
}

/// Whether the source has said on the control lane that it is over: then it does not come back.
/// What else is unread there goes with the link.
bool Incoming::Impl::hear_last_word() {
  const auto until = clock_.now() + kLastWordPatience;
  while (gate_.load() != Gate::kCancelled) {
    const auto left = until - clock_.now();
    if (left.count() <= 0) return false;
    auto record = receive_once(left);
    if (!record) continue;
    if (!*record) {
      Error error = std::move(*record).error();
      if (error.side != Side::kSource) return false;
      driver_->fail(std::move(error));
      return true;
    }
    if ((*record)->header.type != wire::RecordType::kAbort) continue;
    Status taken = guarded([&] { return take(**record); });
    return taken && driver_->machine().ended();
  }
  return false;
}

/// The link is lost, and the source may come back: what has come whole stays.
void Incoming::Impl::suspend(Error error) {
  receivers_->stop();
  control_->channel().shutdown();
  driver_->use(nullptr);
  pending_regions_.reset();
  resuming_ = Resuming::kNo;
  if (!lost_at_) lost_at_ = clock_.now();
  say("reconnecting", "the link was lost, waiting for the source: " + error.message,
      Phase::kRounds);
  lost_error_ = std::move(error);
  resume_until_ = clock_.now() + resume_window_ + kResumeMargin;
}

void Incoming::Impl::await_resume(Introductions& introductions) {
  auto arrival = introductions.take_resuming(*resume_until_);
  resume_until_.reset();
  if (!arrival) {
    link_lost_ = true;
    if (gate_.load() == Gate::kCancelled) return serve_cancel();
    return driver_->fail(*std::move(lost_error_));
  }
  report_.bytes.wire += control_->received_bytes();
  driver_->use(arrival->control.get());
  control_ = std::move(arrival->control);
  if (arrival->round != round_ && arrival->round + 1 != round_) {
    return serve_failure(make_error(
        ErrorCode::kProtocol, "the source comes back in round " + std::to_string(arrival->round) +
                                  ", here it is round " + std::to_string(round_)));
  }
  resuming_ = Resuming::kVoids;
  const std::vector<Region> regions = ledger_->regions();
  void_ = session::VoidSet(regions);
  Status sent = control_->send(wire::Resumed{round_, acknowledged_digest_}, options_.hello_timeout);
  if (!sent) serve_failure(std::move(sent).error());
}

Status Incoming::Impl::take_void(const wire::Void& pages) {
  const bool lazily = lazy_ == Lazy::kAnnounced || lazy_ == Lazy::kRegistered;
  if (resuming_ != Resuming::kVoids && !lazily) return not_due();
  return void_.take(pages, *ledger_);
}

Status Incoming::Impl::take_void_end(const wire::VoidEnd& end) {
  if (resuming_ != Resuming::kVoids) return not_due();
  MIGRATE_TRY(void_.check(end));
  precopy::make_void(*ledger_, void_.set());
  MIGRATE_TRY(receivers_->check_open_round_is_void());
  memory_digest_ = precopy::digest_of(*ledger_, *digest_);
  if (memory_digest_ != end.digest) {
    return make_error(ErrorCode::kIntegrity,
                      "after the link was lost the memory here has another digest than what was "
                      "acknowledged")
        .advise("send again; if it happens twice, please report it");
  }
  resuming_ = Resuming::kLanes;
  return control_->send(wire::Voided{memory_digest_}, kReplyPatience);
}

void Incoming::Impl::await_lanes(Introductions& introductions) {
  auto lanes = wait_for_lanes(introductions);
  if (!lanes) return serve_failure(std::move(lanes).error());
  resuming_ = Resuming::kNo;
  stop_lanes();
  Status made = guarded([&] { return make_receivers(*std::move(lanes)); });
  if (!made) return serve_failure(std::move(made).error());
  const nanoseconds lost = clock_.now() - *std::exchange(lost_at_, std::nullopt);
  ++report_.reconnects.count;
  report_.reconnects.ms += duration<double, std::milli>(lost).count();
  say("reconnected", "going on with round " + std::to_string(round_), Phase::kRounds);
}

/// A page that nobody knows of must not be run: the source has to have sent it again.
Status Incoming::Impl::check_nothing_is_void() const {
  if (lazy_target_ != nullptr || (report_.reconnects.count == 0 && !forgot_pages_)) return {};
  for (const auto& entry : ledger_->entries()) {
    if (const std::uint64_t pages = precopy::count_void(*entry); pages > 0) {
      return make_error(ErrorCode::kIntegrity, std::to_string(pages) + " pages of region " +
                                                   to_text(entry->region.id) +
                                                   " did not come again after they were lost")
          .at(Phase::kVerify)
          .advise("the guest goes on at the source; send again, and please report it");
    }
  }
  return {};
}

}  // namespace migrate
