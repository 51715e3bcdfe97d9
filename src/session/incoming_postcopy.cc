// Post-copy at the target: the guest starts before its memory is here, and what it touches comes on
// demand. See "Post-copy" in docs/wire-format.md and docs/handover.md.
#include <algorithm>
#include <string>
#include <utility>

#include "base/guarded.hpp"
#include "precopy/void_pages.hpp"
#include "session/host_identity.hpp"
#include "session/incoming_impl.hpp"

namespace migrate {
namespace {

using session::Introductions;
using session::TargetState;
using std::chrono::duration;
using std::chrono::milliseconds;

// A source that connects at the end of its window may find this host slow to answer; and it may
// have noticed the loss later, by as much as a silent peer is given.
constexpr milliseconds kResumeMargin{2'000};
constexpr milliseconds kReplyPatience{1'000};
// How often the source is told what it may give back to its host.
constexpr milliseconds kInstalledInterval{100};
// How soon it is noticed that the guest has ended while the source is awaited.
constexpr milliseconds kGoneInterval{200};
constexpr std::size_t kRangesMax = 1000;

Error not_due(const char* what) {
  return make_error(ErrorCode::kProtocol, std::string(what) + " came where none may");
}

std::uint64_t whole_us(double us) { return us > 0 ? static_cast<std::uint64_t>(us) : 0; }

}  // namespace

/// Where memory here cannot be filled lazily: a refusal where that was all that was wanted, else
/// the feature is not agreed on.
Status Incoming::Impl::check_postcopy(const wire::Hello& hello, wire::Welcome& welcome) {
  if ((welcome.features & wire::kFeaturePostcopy) == 0) return {};
  Status possible = postcopy::LazyTarget::possible(guest_->pages(), description_.regions);
  if (possible) return {};
  if (hello.strategy == Strategy::kPostcopy || hello.strategy == Strategy::kHybrid) return possible;
  welcome.features &= ~wire::kFeaturePostcopy;
  say("postcopy-unavailable", possible.error().message, Phase::kPreflight);
  return {};
}

/// The lanes of the rounds change their trade, memory is registered.
Status Incoming::Impl::take_lazy(const wire::Lazy& lazy) {
  if (!postcopy_agreed_ || !in_rounds() || pending_regions_ || lazy.round != round_) {
    return not_due("LAZY");
  }
  lazy_ = Lazy::kAnnounced;
  lazy_window_ = milliseconds(lazy.window_ms);
  tells_installed_ = lazy.installed;
  MIGRATE_ASSIGN(lazy_bulk_, receivers_->release_lanes());
  stop_lanes();
  waiting_ = std::make_shared<WaitingMemory>();
  MIGRATE_TRY(wait_for_urgent());
  MIGRATE_ASSIGN(lazy_target_, postcopy::LazyTarget::create({.pages = guest_->pages(),
                                                             .ledger = *ledger_,
                                                             .digest = *digest_,
                                                             .idle_max = options_.peer_timeout,
                                                             .on_news = [this] { wake(); }}));
  const std::vector<Region> regions = ledger_->regions();
  void_ = session::VoidSet(regions);
  return control_->send(wire::LazyTerms{lazy_target_->granules()}, options_.peer_timeout);
}

Status Incoming::Impl::wait_for_urgent() {
  const auto until = clock_.now() + options_.hello_timeout;
  Introductions* introductions = nullptr;
  {
    MutexLock lock(watch_mutex_);
    introductions = introductions_;
  }
  while (lazy_urgent_ == nullptr) {
    const auto now = clock_.now();
    if (now >= until || gate_.load() == Gate::kCancelled) {
      return make_error(ErrorCode::kTimeout, "the urgent lane did not join the session in time")
          .advise("check that all connections of the source reach this port");
    }
    if (introductions->has_resuming()) {
      return make_error(ErrorCode::kLinkLost, "the source has come back on another connection");
    }
    lazy_urgent_ = introductions->take_urgent(
        std::min(until, now + RecordChannel::alive_period(options_.peer_timeout)));
    MIGRATE_TRY(keep_alive());
  }
  return {};
}

/// The end of one of the two lists of what comes lazily: before the guest's pause, and after it.
Status Incoming::Impl::take_lazy_void_end(const wire::VoidEnd& end) {
  const bool early = lazy_ == Lazy::kAnnounced;
  if (!early && (lazy_ != Lazy::kRegistered || !state_.complete())) return not_due("VOID_END");
  MIGRATE_TRY(void_.check(end));
  memory_digest_ -= precopy::take_void(*ledger_, *digest_, void_.set());
  if (memory_digest_ != end.digest) {
    return make_error(ErrorCode::kIntegrity,
                      "memory here has another digest than what was sent, without what is going to "
                      "follow")
        .advise("the guest goes on at the source; send again, and report it if it happens twice");
  }
  MIGRATE_TRY(lazy_target_->miss(void_.set()));
  const std::vector<Region> regions = ledger_->regions();
  void_ = session::VoidSet(regions);
  if (!early) {
    lazy_ = Lazy::kStands;
    return {};
  }
  MIGRATE_TRY(lazy_target_->attach(std::move(lazy_bulk_), std::move(lazy_urgent_), round_));
  lazy_ = Lazy::kRegistered;
  say("postcopy", std::to_string(lazy_target_->missing_pages()) + " pages are going to follow",
      Phase::kRounds);
  MIGRATE_TRY(open_host());
  return control_->send(wire::Voided{memory_digest_}, options_.peer_timeout);
}

/// After the state was loaded: from now on who touches memory that is missing waits for it.
Status Incoming::Impl::let_guest_wait() {
  if (lazy_target_ == nullptr) return {};
  lazy_target_->guest_may_wait();
  // Whoever loaded the state may have had zeros instead.
  if (auto failed = lazy_target_->failure()) return *std::move(failed);
  return {};
}

/// The guest runs here. Until its memory is here, too, and the source knows it.
void Incoming::Impl::fill(Introductions& introductions) {
  if (lazy_target_ == nullptr || driver_->machine().state() != TargetState::kStarted) return;
  const auto begin = clock_.now();
  say("postcopy", "the guest runs, and its memory follows", Phase::kPostcopy);
  heard_at_ = clock_.now();
  while (!released_ && !memory_lost_ && !filling_over_) {
    Status filled = link_lost_ ? link_is_lost() : guarded([&] { return fill_once(introductions); });
    if (filled) continue;
    link_lost_ = false;
    await_source(introductions, std::move(filled).error());
  }
  const auto figures = lazy_target_->figures();
  report_.phases_ms.postcopy = duration<double, std::milli>(clock_.now() - begin).count();
  note_lazy_figures(figures);
  if (!memory_lost_) {
    lazy_target_->forbid();  // A guest that ended before all was here.
    lazy_target_.reset();
  }
  report_.total_ms = elapsed_ms();
}

Status Incoming::Impl::link_is_lost() {
  return make_error(ErrorCode::kLinkLost, "the link was lost when the guest started");
}

Status Incoming::Impl::fill_once(Introductions& introductions) {
  if (introductions.has_resuming()) {
    return make_error(ErrorCode::kLinkLost, "the source has come back on another connection");
  }
  if (guest_gone_ && !lazy_target_->complete()) return tell_guest_is_gone();
  if (lazy_target_->complete()) {
    if (!std::exchange(told_complete_, true)) MIGRATE_TRY(tell_complete());
  } else if (auto failed = lazy_target_->failure()) {
    return *std::move(failed);
  }
  MIGRATE_TRY(tell_installed());
  const std::uint64_t before = control_->received_bytes();
  auto record = receive_once(kInstalledInterval);
  if (control_->received_bytes() != before) heard_at_ = clock_.now();
  if (!record) {
    // A source that lost the link after COMMIT asks on a connection of its own.
    replace_control(introductions, clock_.now());
    return {};
  }
  if (*record) {
    Status taken = take(**record);
    if (!taken) return taken;
  } else if (record->error().code != ErrorCode::kTimeout) {
    return std::move(*record).error();
  } else if (clock_.now() - heard_at_ >= options_.peer_timeout) {
    return make_error(ErrorCode::kTimeout, "the source fell silent");
  }
  return control_->keep_alive(options_.peer_timeout);
}

/// Nobody needs the rest: the source hears what anybody on this host could tell it soon.
Status Incoming::Impl::tell_guest_is_gone() {
  filling_over_ = true;
  return control_->send(wire::Answer{wire::JournalState::kStarted, driver_->machine().attempt(),
                                     session::this_boot(), false},
                        kReplyPatience);
}

Status Incoming::Impl::tell_installed() {
  if (!tells_installed_ || told_complete_) return {};
  const auto now = clock_.now();
  if (now - installed_told_at_ < kInstalledInterval) return {};
  installed_told_at_ = now;
  return session::send_installed(*control_, lazy_target_->take_installed(), *ledger_,
                                 options_.peer_timeout);
}

Status Incoming::Impl::tell_complete() {
  tell_host_of_all();
  const auto figures = lazy_target_->figures();
  wire::Complete complete;
  complete.pages = figures.arrived;
  complete.digest = precopy::digest_of(*ledger_, *digest_);
  complete.faults = figures.faults;
  complete.local_faults = figures.local_faults;
  complete.fault_p50_us = whole_us(figures.fault_p50_us);
  complete.fault_p99_us = whole_us(figures.fault_p99_us);
  complete.fault_max_us = whole_us(figures.fault_max_us);
  for (const double stall : stalls_by_vcpu(figures)) complete.stall_us.push_back(whole_us(stall));
  return control_->send(complete, options_.peer_timeout);
}

/// The guest needs nobody any more, and may be sent on. Once, whatever becomes of the link.
void Incoming::Impl::tell_host_of_all() {
  if (std::exchange(host_has_all_, true)) return;
  host_.on_memory(Host::Memory::kComplete, {});
  say("postcopy", "all memory is here", Phase::kPostcopy);
}

std::vector<double> Incoming::Impl::stalls_by_vcpu(const postcopy::TargetFigures& figures) {
  std::vector<double> stalls;
  const std::vector<int> threads = guest_->vcpu_threads();
  for (const int thread : threads) {
    if (stalls.size() == wire::kStallsMax) break;
    const auto found =
        std::find_if(figures.stall_us_by_thread.begin(), figures.stall_us_by_thread.end(),
                     [&](const auto& stall) { return stall.first == thread; });
    stalls.push_back(found == figures.stall_us_by_thread.end() ? 0 : found->second);
  }
  return stalls;
}

void Incoming::Impl::note_lazy_figures(const postcopy::TargetFigures& figures) {
  report_.faults.count = figures.faults;
  report_.faults.local = figures.local_faults;
  report_.faults.p50_us = figures.fault_p50_us;
  report_.faults.p99_us = figures.fault_p99_us;
  report_.faults.max_us = figures.fault_max_us;
  for (const double stall : stalls_by_vcpu(figures))
    report_.faults.stall_ms.push_back(stall / 1000);
  report_.pages.demand = figures.faults;
  report_.pages.pushed = figures.arrived - std::min(figures.arrived, figures.faults);
  report_.bytes.wire += figures.wire_bytes;
  report_.bytes.guest += figures.arrived * kPageSize;
}

/// The link is lost: who faults waits. Until the source is back, or its time is over.
void Incoming::Impl::await_source(Introductions& introductions, Error lost) {
  const auto begin = clock_.now();
  lazy_target_->detach();
  control_->channel().shutdown();
  say("reconnecting", "the link was lost, waiting for the source: " + lost.message,
      Phase::kPostcopy);
  // Where all is here the source only has to hear of it, and the guest needs nobody.
  const bool whole = lazy_target_->complete();
  if (whole) {
    tell_host_of_all();
  } else {
    host_.on_memory(Host::Memory::kWaits, lost.message);
  }
  const nanoseconds window =
      lazy_window_ + kResumeMargin + std::min<nanoseconds>(lazy_window_, options_.peer_timeout);
  auto until = begin + window;
  while (!guest_gone_) {
    auto arrival =
        introductions.take_resuming_or_asking(std::min(until, clock_.now() + kGoneInterval));
    if (!arrival.resuming && arrival.asking == nullptr && clock_.now() < until &&
        !introductions.stopped()) {
      continue;
    }
    if (arrival.asking != nullptr) {
      // It hears that the guest runs here, and then comes back for the rest.
      answer_asking(std::move(arrival.asking));
      continue;
    }
    if (!arrival.resuming) break;
    Status back =
        guarded([&] { return resume_filling(introductions, *std::move(arrival.resuming)); });
    if (back) {
      ++report_.reconnects.count;
      report_.reconnects.ms += duration<double, std::milli>(clock_.now() - begin).count();
      say("reconnected", std::to_string(lazy_target_->missing_pages()) + " pages are still missing",
          Phase::kPostcopy);
      if (!whole) host_.on_memory(Host::Memory::kFollows, {});
      return;
    }
    lost = std::move(back).error();
    lazy_target_->detach();
    // A source that waits there for more tries again.
    control_->channel().shutdown();
    until = clock_.now() + window;
  }
  report_.reconnects.ms += duration<double, std::milli>(clock_.now() - begin).count();
  // Only the source's word for it is not here; or nobody is who would need the rest.
  if (whole || guest_gone_) {
    filling_over_ = true;
    return;
  }
  give_memory_up(std::move(lost));
}

Status Incoming::Impl::resume_filling(Introductions& introductions,
                                      Introductions::Resuming arrival) {
  control_ = std::move(arrival.control);
  driver_->use(control_.get());
  asked_ = false;
  if (arrival.round != round_) return not_due("RESUME of another round");
  const std::uint64_t digest = precopy::digest_of(*ledger_, *digest_);
  const PageBitmap missing = lazy_target_->missing();
  MIGRATE_TRY(control_->send(wire::Resumed{round_, digest}, kReplyPatience));
  MIGRATE_TRY(session::send_void(*control_, missing, *ledger_, options_.peer_timeout));
  MIGRATE_TRY(control_->send(wire::VoidEnd{missing.count(), digest}, options_.peer_timeout));
  MIGRATE_ASSIGN(auto bulk, introductions.wait_for_lanes(options_.hello_timeout));
  auto urgent = introductions.take_urgent(clock_.now() + options_.hello_timeout);
  if (urgent == nullptr) {
    return make_error(ErrorCode::kTimeout, "the urgent lane did not join the session again");
  }
  told_complete_ = false;
  heard_at_ = clock_.now();
  return lazy_target_->attach(std::move(bulk), std::move(urgent), round_);
}

/// The source is lost for good: what did not come is told, and the guest stands.
void Incoming::Impl::give_memory_up(Error lost) {
  const PageBitmap missing = lazy_target_->missing();
  report_.missing.pages = missing.count();
  missing.for_each_run([&](const RegionId& region, PageRange run) {
    if (report_.missing.ranges.size() == kRangesMax) return;
    const PageLedger::Entry* entry = ledger_->find(region);
    const std::uint64_t first = run.first - entry->region.range.first;
    report_.missing.ranges.push_back(to_text(region) + " " + std::to_string(first) + "-" +
                                     std::to_string(first + run.count - 1));
  });
  const std::string message = "the source is lost, and " + std::to_string(report_.missing.pages) +
                              " pages of the guest's memory with it (" + lost.message + ")";
  memory_error_ =
      make_error(ErrorCode::kGuestLost, message)
          .advise("the guest is kept paused; end it, or bring the source back and migrate anew")
          .at(Phase::kPostcopy)
          .on(Side::kSource);
  host_.on_memory(Host::Memory::kLost, message);
  memory_lost_ = true;
  say("memory-lost", message, Phase::kPostcopy);
}

Incoming::Impl::WaitingMemory::~WaitingMemory() {
  if (target != nullptr) target->forbid();
}

/// Of a guest that has started, whatever ended the waiting for the rest of its memory.
Outcome Incoming::Impl::end_of_memory(IncomingResult& result) {
  const bool whole = lazy_target_ == nullptr || lazy_target_->complete();
  if (!whole && !guest_gone_ && !memory_lost_) {
    memory_lost_ = true;
    report_.missing.pages = lazy_target_->missing_pages();
    // Nothing else ends the waiting.
    Status told = guarded([&]() -> Status {
      Error none = make_error(ErrorCode::kGuestLost,
                              "this host ran out of memory while some of the guest's followed it")
                       .at(Phase::kPostcopy)
                       .on(Side::kTarget)
                       .advise("the guest is kept paused; end it, free memory and migrate anew");
      host_.on_memory(Host::Memory::kLost, none.message);
      if (!memory_error_) memory_error_ = std::move(none);
      return {};
    });
    if (!told && !memory_error_) {
      memory_error_ = std::move(told).error();
      memory_error_->code = ErrorCode::kGuestLost;
    }
  }
  report_.error = std::move(memory_error_);
  if (!memory_lost_) return Outcome::kDone;
  // Who waits for what never comes goes on waiting: zeros would not be its memory.
  lazy_target_->detach();
  lazy_target_->end_news();
  waiting_->ledger = std::move(ledger_);
  waiting_->target = std::move(lazy_target_);
  result.waiting_memory = std::move(waiting_);
  return Outcome::kLost;
}

}  // namespace migrate
