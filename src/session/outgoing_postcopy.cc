// Post-copy at the source: the guest goes first, and its memory is served from here until the
// target has all of it. See "Post-copy" in docs/wire-format.md and docs/handover.md.
#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "base/guarded.hpp"
#include "postcopy/granules.hpp"
#include "precopy/void_pages.hpp"
#include "session/outgoing_impl.hpp"
#include "session/void_stream.hpp"

namespace migrate {
namespace {

using session::SourceEvent;
using session::SourceState;
using std::chrono::duration;
using std::chrono::milliseconds;

// How often the lanes are looked at while the control lane is silent.
constexpr milliseconds kLookInterval{100};

}  // namespace

bool Outgoing::Impl::can_postcopy() const {
  return postcopy_agreed_ && options_.strategy != Strategy::kStopCopy;
}

/// Pure post-copy: no round at all. Holes are found while writes are tracked, so that one that is
/// filled meanwhile follows like the rest.
Status Outgoing::Impl::prepare_postcopy() {
  if (!std::exchange(tracking_, true)) {
    say("postcopy", "tracking writes with " + std::string(guest_->tracker().name()) +
                        " until the guest stands");
  }
  lazy_ = true;
  return rounds_->start(guest_->run_state() == RunState::kPaused);
}

/// Before the guest is paused: both sides' lanes change their trade, the target registers its
/// memory, and drops what is going to come lazily.
Status Outgoing::Impl::begin_lazy() {
  const auto window = reconnect_of_postcopy(options_);
  const wire::Lazy lazy{rounds_->round(), static_cast<std::uint32_t>(window.count()),
                        options_.release_early};
  RecordChannel& control = driver_->control();
  if (lazy_urgent_ == nullptr) MIGRATE_TRY(join_urgent());
  auto bulk = senders_->release_lanes();
  drop_lanes();
  for (auto& lane : bulk) MIGRATE_TRY(lane->send(lazy, options_.peer_timeout));
  MIGRATE_TRY(control.send(lazy, options_.peer_timeout));
  MIGRATE_ASSIGN(auto terms, control.expect_alive<wire::LazyTerms>(options_.peer_timeout));
  MIGRATE_TRY(postcopy::check_granules(terms.granules, *ledger_));
  granules_ = std::move(terms.granules);
  const PageBitmap& set = rounds_->begin_lazy([this](PageBitmap& pages) { widen(pages); });
  MIGRATE_TRY(session::send_void(control, set, *ledger_, options_.peer_timeout));
  MIGRATE_TRY(control.send(wire::VoidEnd{set.count(), rounds_->digest()}, options_.peer_timeout));
  MIGRATE_ASSIGN(const auto voided, control.expect_alive<wire::Voided>(options_.peer_timeout));
  if (voided.digest != rounds_->digest()) {
    return make_error(ErrorCode::kIntegrity,
                      "before the switchover the target's memory has another digest than what was "
                      "sent")
        .advise("the guest goes on here; send again, and report it if it happens twice");
  }
  book_control();
  say("postcopy", std::to_string(set.count()) + " pages are going to follow the guest",
      Phase::kRounds);
  make_lazy_source();
  return lazy_source_->attach(std::move(bulk), std::move(lazy_urgent_), rounds_->round());
}

/// One more connection than rounds need, which not every transport gives.
Status Outgoing::Impl::join_urgent() {
  use_connector(connector_);
  const session::SourceKeys& keys = driver_->keys();
  auto urgent = session::join_urgent_lane(
      *connector_, {keys.id, keys.secret, keys.hasher}, bulk_lanes_, options_,
      [this](Channel* channel) { watch(channel); }, driver_->control().channel());
  use_connector(nullptr);
  if (!urgent) return std::move(urgent).error();
  lazy_urgent_ = *std::move(urgent);
  return {};
}

/// All that takes longer where memory is large is done before the guest is paused.
void Outgoing::Impl::make_lazy_source() {
  postcopy::LazySource::Work work;
  work.missing = rounds_->lazy_set();
  work.first = PageBitmap(work.missing.regions());
  work.recent = rounds_->lazy_hot();
  work.granules = granules_;
  work.stands = false;
  lazy_source_ = std::make_unique<postcopy::LazySource>(
      postcopy::LazySource::Context{
          .pages = guest_->pages(),
          .ledger = *ledger_,
          .digest = *digest_,
          .idle_max = options_.peer_timeout,
          .bandwidth_bytes_per_s = options_.bandwidth_bytes_per_s,
          .push_bandwidth_bytes_per_s = options_.push_bandwidth_bytes_per_s,
          .capacity_bytes_per_s = page_cost_ ? page_cost_->capacity_bytes_per_s() : 0,
          .push_order = options_.push_order,
          .on_failure = [] {}},
      std::move(work));
}

void Outgoing::Impl::widen(PageBitmap& pages) const { postcopy::widen(pages, granules_, *ledger_); }

/// While the guest stands: what it has written since, and whoever asks for pages is served.
Status Outgoing::Impl::offer_lazily(const PageBitmap& late) {
  RecordChannel& control = driver_->control();
  MIGRATE_TRY(session::send_void(control, late, *ledger_, options_.peer_timeout));
  // OFFER follows it and takes it along.
  MIGRATE_TRY(
      control.send_later(wire::VoidEnd{late.count(), rounds_->digest()}, options_.peer_timeout));
  lazy_first_ = PageBitmap(late.regions());
  lazy_released_ = PageBitmap(late.regions());
  MIGRATE_TRY(guest_->first_pages(lazy_first_));
  widen(lazy_first_);
  lazy_first_.intersect(rounds_->lazy_set());
  lazy_source_->stands(rounds_->lazy_set());
  return {};
}

/// The guest runs at the target. Until the machine says that it has its memory, too.
void Outgoing::Impl::serve_lazily() {
  phase_ = Phase::kPostcopy;
  const double begin_ms = elapsed_ms();
  watch(nullptr);
  // What was withheld from its vCPUs ends here: they run elsewhere.
  throttle_.clear();
  say("postcopy",
      "the guest runs at the target, " + std::to_string(lazy_source_->pages_left()) +
          " pages follow",
      Phase::kPostcopy);
  lazy_source_->push();
  // What was asked after COMMIT came on a connection of its own; the lanes of the old one are gone.
  lazy_heard_at_ = clock_.now();
  Status served = driver_->has_asked() ? link_was_lost("the link was lost after COMMIT") : Status{};
  while (driver_->machine().state() == SourceState::kServing) {
    if (served) served = guarded([&] { return serve_once(); });
    if (served || driver_->machine().state() != SourceState::kServing) continue;
    Error lost = std::move(served).error();
    served = guarded([&] { return come_back(std::move(lost)); });
    if (served) continue;
    driver_->remember(std::move(served).error().at(Phase::kPostcopy).on(Side::kSource));
    driver_->drive(SourceEvent::Kind::kServeWindowOver);
  }
  report_.phases_ms.postcopy = elapsed_ms() - begin_ms;
}

Status Outgoing::Impl::link_was_lost(std::string message) {
  return make_error(ErrorCode::kLinkLost, std::move(message));
}

/// A record of the control lane, or a look at the lanes. An error ends this link.
Status Outgoing::Impl::serve_once() {
  if (auto failed = lazy_source_->failure()) return *std::move(failed);
  RecordChannel& control = driver_->control();
  const std::uint64_t before = control.received_bytes();
  auto record = control.receive(kLookInterval);
  const auto now = clock_.now();
  if (control.received_bytes() != before) lazy_heard_at_ = now;
  if (!record) {
    if (record.error().code != ErrorCode::kTimeout) return std::move(record).error();
    if (now - lazy_heard_at_ >= options_.peer_timeout) {
      return make_error(ErrorCode::kTimeout, "the target fell silent");
    }
    tell_lazy_progress();
    return control.keep_alive(options_.peer_timeout);
  }
  MIGRATE_TRY(take_lazily(*record));
  tell_lazy_progress();
  return control.keep_alive(options_.peer_timeout);
}

Status Outgoing::Impl::take_lazily(const RecordChannel::Record& record) {
  switch (record.header.type) {
    case wire::RecordType::kInstalled: {
      MIGRATE_ASSIGN(const auto installed, wire::decode<wire::Installed>(record.body));
      return release_installed(installed);
    }
    case wire::RecordType::kComplete: {
      MIGRATE_ASSIGN(const auto complete, wire::decode<wire::Complete>(record.body));
      return take_complete(complete);
    }
    // What crossed the end of the handover.
    case wire::RecordType::kStarted:
    case wire::RecordType::kReady:
      return {};
    case wire::RecordType::kAnswer:
      driver_->take_answer(record);
      return {};
    default:
      return RecordChannel::unexpected(record, wire::RecordType::kComplete);
  }
}

Status Outgoing::Impl::release_installed(const wire::Installed& installed) {
  if (!options_.release_early)
    return make_error(ErrorCode::kProtocol, "INSTALLED was not asked for");
  const std::vector<Region> regions = ledger_->regions();
  session::VoidSet set(regions);
  MIGRATE_TRY(set.take({installed.region, installed.first, installed.words}, *ledger_));
  MIGRATE_TRY(check_installed(set.set()));
  lazy_released_.merge(set.set());
  Status released;
  set.set().for_each_run([&](const RegionId& region, PageRange run) {
    if (released) released = guest_->release_pages(region, run);
  });
  // Memory that stays a little longer harms nobody.
  if (!released) say("release-failed", released.error().to_text(), Phase::kPostcopy);
  return {};
}

Status Outgoing::Impl::check_installed(const PageBitmap& installed) const {
  Status checked;
  installed.for_each_run([&](const RegionId& region, PageRange run) {
    const PageLedger::Entry* entry = ledger_->find(region);
    const std::uint64_t first = run.first - entry->region.range.first;
    for (std::uint64_t page = first; checked && page < first + run.count; ++page) {
      const bool sent =
          std::atomic_ref(ledger_->find(region)->hashes[page]).load() != wire::PageDigest::kVoid;
      if (sent && rounds_->lazy_set().test(region, run.first + (page - first))) continue;
      checked = make_error(ErrorCode::kProtocol,
                           page_text(*entry, page) + " is said to have come, and was not sent");
    }
  });
  return checked;
}

Status Outgoing::Impl::take_complete(const wire::Complete& complete) {
  report_.faults.count = complete.faults;
  report_.faults.local = complete.local_faults;
  report_.faults.p50_us = static_cast<double>(complete.fault_p50_us);
  report_.faults.p99_us = static_cast<double>(complete.fault_p99_us);
  report_.faults.max_us = static_cast<double>(complete.fault_max_us);
  for (const std::uint64_t stall : complete.stall_us) {
    report_.faults.stall_ms.push_back(static_cast<double>(stall) / 1000);
  }
  std::uint64_t unsent = 0;
  for (const auto& entry : ledger_->entries()) unsent += precopy::count_void(*entry);
  if (unsent == 0 && complete.digest == precopy::digest_of(*ledger_, *digest_)) {
    driver_->drive(SourceEvent::Kind::kComplete);
    return {};
  }
  // The guest has run on what is there: nothing can be fetched again. Its pages stay here.
  report_.integrity.digest = "unequal";
  Error unequal = make_error(ErrorCode::kIntegrity,
                             "the memory that followed the guest has another digest at the "
                             "target than what was sent (" +
                                 std::to_string(unsent) + " pages were never sent)")
                      .at(Phase::kPostcopy)
                      .on(Side::kSource)
                      .advise("stop the guest at the target, and please report it");
  Status told = driver_->control().send(wire::ErrorRecord{unequal}, options_.peer_timeout);
  static_cast<void>(told);
  driver_->remember(std::move(unequal));
  driver_->drive(SourceEvent::Kind::kServeWindowOver);
  return {};
}

void Outgoing::Impl::tell_lazy_progress() {
  const auto now = clock_.now();
  if (observer_ == nullptr || now - progress_at_ < kLookInterval) return;
  progress_at_ = now;
  const auto figures = lazy_source_->figures();
  Progress progress;
  progress.phase = Phase::kPostcopy;
  progress.round = rounds_->round();
  progress.pages_left = lazy_source_->pages_left();
  progress.pages_total = ledger_->pages();
  progress.elapsed_ms = elapsed_ms();
  progress.bytes_sent = bulk_.wire_bytes + figures.wire_bytes;
  if (progress.elapsed_ms > 0) {
    progress.throughput_bytes_per_s =
        static_cast<double>(progress.bytes_sent) / (progress.elapsed_ms / 1000);
  }
  observer_->on_progress(progress);
}

/// The link is lost: whoever faults there waits. Until it serves again, or the time is over.
Status Outgoing::Impl::come_back(Error lost) {
  const auto begin = clock_.now();
  const auto window = reconnect_of_postcopy(options_);
  // A link that comes back and brings nothing is no link: then neither the window nor the pauses
  // begin anew.
  if (!std::exchange(lazy_no_progress_, false)) {
    lazy_lost_at_ = begin;
    backoff_ = nanoseconds(0);
  }
  const auto until = lazy_lost_at_ + window;
  say("reconnecting", "the link was lost, connecting again: " + lost.message, Phase::kPostcopy);
  lazy_source_->detach();
  driver_->control().channel().shutdown();
  std::string last;
  bool back = false;
  while (!back && pause_before_serving(until)) {
    Status tried = guarded([&] { return serve_again(until); });
    back = static_cast<bool>(tried);
    if (back) break;
    lazy_source_->detach();
    last = tried.error().message;
    // Its process may be gone: then somebody there knows it.
    if (tried.error().code == ErrorCode::kNotFound) ask_for_end(until);
    if (driver_->machine().state() != SourceState::kServing) return {};
  }
  report_.reconnects.ms += duration<double, std::milli>(clock_.now() - begin).count();
  if (back) {
    ++report_.reconnects.count;
    say("reconnected", std::to_string(lazy_source_->pages_left()) + " pages are still to follow",
        Phase::kPostcopy);
    return {};
  }
  lost.message += "; connecting again did not help within " + format_duration(window);
  if (!last.empty()) lost.message += " (" + last + ")";
  return lost;
}

bool Outgoing::Impl::pause_before_serving(SteadyTime until) {
  std::this_thread::sleep_until(std::min(until, clock_.now() + backoff_));
  grow_backoff();
  return clock_.now() < until;
}

/// One try: RESUME, what is still missing, the lanes.
Status Outgoing::Impl::serve_again(SteadyTime until) {
  OutgoingOptions hasty = options_;
  const auto left =
      std::max(milliseconds(1), std::chrono::ceil<milliseconds>(until - clock_.now()));
  hasty.connect_timeout = std::min(options_.connect_timeout, left);
  hasty.hello_timeout = std::min(options_.hello_timeout, left);
  const session::SourceKeys& keys = driver_->keys();
  MIGRATE_ASSIGN(auto control, connect_to_target(hasty));
  control->set_mid_record_idle(options_.peer_timeout);
  MIGRATE_TRY(
      control->send(wire::Resume{keys.id, keys.secret, rounds_->round()}, hasty.hello_timeout));
  MIGRATE_ASSIGN(const auto resumed, control->expect<wire::Resumed>(hasty.hello_timeout));
  if (resumed.round != rounds_->round()) {
    return make_error(ErrorCode::kProtocol, "the target goes on in another round than was begun");
  }
  MIGRATE_TRY(take_still_missing(*control, resumed.digest));
  MIGRATE_ASSIGN(auto bulk, session::join_lanes(
                                *connector_, {keys.id, keys.secret, keys.hasher}, bulk_lanes_,
                                hasty, [](Channel*) {}, control->channel()));
  MIGRATE_ASSIGN(auto urgent, session::join_urgent_lane(
                                  *connector_, {keys.id, keys.secret, keys.hasher}, bulk_lanes_,
                                  hasty, [](Channel*) {}, control->channel()));
  driver_->replace_control(std::move(control));
  lazy_heard_at_ = clock_.now();
  return lazy_source_->attach(std::move(bulk), std::move(urgent), rounds_->round());
}

/// Its digest is of what has come.
Status Outgoing::Impl::take_still_missing(RecordChannel& control, std::uint64_t digest) {
  const std::vector<Region> regions = ledger_->regions();
  session::VoidSet missing(regions);
  for (;;) {
    MIGRATE_ASSIGN(const auto record, control.receive_alive(options_.peer_timeout));
    if (record.header.type == wire::RecordType::kVoid) {
      MIGRATE_ASSIGN(const auto pages, wire::decode<wire::Void>(record.body));
      MIGRATE_TRY(missing.take(pages, *ledger_));
      continue;
    }
    if (record.header.type != wire::RecordType::kVoidEnd) {
      return RecordChannel::unexpected(record, wire::RecordType::kVoidEnd);
    }
    MIGRATE_ASSIGN(const auto end, wire::decode<wire::VoidEnd>(record.body));
    MIGRATE_TRY(missing.check(end));
    MIGRATE_TRY(check_still_missing(missing.set()));
    // Whatever was sent of these has not come.
    precopy::make_void(*ledger_, missing.set());
    if (end.digest != digest || digest != precopy::digest_of(*ledger_, *digest_)) {
      return make_error(ErrorCode::kIntegrity,
                        "what has come to the target has another digest than what was sent");
    }
    lazy_source_->still_missing(missing.set());
    const std::uint64_t count = missing.set().count();
    lazy_no_progress_ = std::exchange(lazy_missing_, count) == count;
    return {};
  }
}

/// Of what follows, and not what this side has given back to its host: that would be sent as zeros.
Status Outgoing::Impl::check_still_missing(const PageBitmap& missing) const {
  PageBitmap others = missing;
  others.subtract(rounds_->lazy_set());
  PageBitmap released = missing;
  released.intersect(lazy_released_);
  if (others.empty() && released.empty()) return {};
  return make_error(ErrorCode::kIntegrity,
                    "the target lacks pages that it was never to lack, or has confirmed before");
}

/// Somebody at the target's host who does not have the session may know what became of it.
void Outgoing::Impl::ask_for_end(SteadyTime until) {
  OutgoingOptions hasty = options_;
  hasty.connect_timeout =
      std::min(options_.connect_timeout,
               std::max(milliseconds(1), std::chrono::ceil<milliseconds>(until - clock_.now())));
  auto control = connect_to_target(hasty);
  if (!control) return;
  const session::SourceKeys& keys = driver_->keys();
  if (!(*control)->send(wire::Ask{keys.id, keys.secret}, options_.hello_timeout)) return;
  driver_->replace_control(*std::move(control));
  auto record = driver_->control().receive(options_.hello_timeout);
  if (record && record->header.type == wire::RecordType::kAnswer) driver_->take_answer(*record);
}

}  // namespace migrate
