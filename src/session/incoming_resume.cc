// After a lost link: the target waits for its source to come back, and rounds go on. See "After a
// lost link" in docs/wire-format.md.
#include <bit>

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

Error not_in_order(const std::string& what) {
  return make_error(ErrorCode::kProtocol, "the source's void pages: " + what);
}

}  // namespace

bool Incoming::Impl::in_rounds() const {
  return driver_->machine().state() == TargetState::kReceiving && !final_applied_ &&
         !state_.begun();
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
  void_set_ = PageBitmap(regions);
  void_next_ = {};
  void_pages_ = 0;
  Status sent = control_->send(wire::Resumed{round_, acknowledged_digest_}, options_.hello_timeout);
  if (!sent) serve_failure(std::move(sent).error());
}

Status Incoming::Impl::take_void(const wire::Void& pages) {
  const PageLedger::Entry* entry = ledger_->find(pages.region.number);
  if (resuming_ != Resuming::kVoids || entry == nullptr) {
    return not_in_order("not expected, or of an unknown region");
  }
  const std::pair begin(pages.region.number, pages.first / 64);
  PageBitmap::Segment& segment = *void_set_.find(entry->region.id);
  if (begin < void_next_ || begin.second > segment.words.size() ||
      pages.words.size() > segment.words.size() - begin.second) {
    return not_in_order("they do not ascend, or lie outside their region");
  }
  std::copy(pages.words.begin(), pages.words.end(),
            segment.words.begin() + static_cast<std::ptrdiff_t>(begin.second));
  for (const std::uint64_t word : pages.words) {
    void_pages_ += static_cast<std::uint64_t>(std::popcount(word));
  }
  void_next_ = {begin.first, begin.second + pages.words.size()};
  const std::uint64_t tail = entry->region.range.count % 64;
  if (tail != 0 && (segment.words.back() >> tail) != 0) {
    return not_in_order("they lie outside their region");
  }
  return {};
}

Status Incoming::Impl::take_void_end(const wire::VoidEnd& end) {
  if (resuming_ != Resuming::kVoids || end.pages != void_pages_) {
    return not_in_order("not expected, or not all of them came");
  }
  precopy::make_void(*ledger_, void_set_);
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
  if (report_.reconnects.count == 0) return {};
  for (const auto& entry : ledger_->entries()) {
    if (const std::uint64_t pages = precopy::count_void(*entry); pages > 0) {
      return make_error(ErrorCode::kIntegrity, std::to_string(pages) + " pages of region " +
                                                   to_text(entry->region.id) +
                                                   " did not come again after the link was lost")
          .at(Phase::kVerify)
          .advise("the guest goes on at the source; send again, and please report it");
    }
  }
  return {};
}

}  // namespace migrate
