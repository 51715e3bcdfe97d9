#include <thread>

#include "base/guarded.hpp"
#include "base/thread_cpu.hpp"
#include "session/host_identity.hpp"
#include "session/outgoing_impl.hpp"
#include "session/uncertain.hpp"

namespace migrate {
namespace {

using session::SourceDriver;
using session::SourceState;
using std::chrono::duration;
using std::chrono::milliseconds;

// How long the target's own words are waited for when a lane has failed: they are on their way when
// it noticed first, and never come when it is gone.
constexpr milliseconds kExplainPatience{300};
// What a lane that packs holds: 1 MiB of staging, as much of packed content, and zstd's own.
constexpr std::uint64_t kLaneBytes = 4ull << 20;

double to_ms(nanoseconds time) { return duration<double, std::milli>(time).count(); }

Error cancelled_error() {
  return make_error(ErrorCode::kCancelled, "the migration was cancelled")
      .advise("the guest goes on here as it was; send it again when you like")
      .on(Side::kSource);
}

}  // namespace

Outgoing::Impl::Impl(std::unique_ptr<SourceGuest> guest, OutgoingOptions options,
                     Observer* observer, Arbiter* arbiter, Clock& clock)
    : guest_(std::move(guest)),
      options_(std::move(options)),
      observer_(observer),
      arbiter_(arbiter),
      clock_(clock) {
  MIGRATE_CHECK(guest_ != nullptr);
}

OutgoingResult Outgoing::Impl::run(Connector& connector) {
  begin_ = clock_.now();
  cpu_begin_ = thread_cpu();
  OutgoingResult result;
  Status ready = guarded([&] { return setup(connector); });
  if (driver_ == nullptr) {
    fail_before_session(std::move(ready).error(), result);
    return result;
  }
  if (ready) {
    report_.phases_ms.setup = elapsed_ms();
    ready = guarded([&] { return hand_over(); });
  }
  if (!ready) {
    // The guest is the user's again, whatever the target still has to hear.
    undo_throttle();
    driver_->fail(explain(std::move(ready).error()));
  }
  // Where there is no memory for it the target's window ends the session.
  Status told = guarded([&] { return tell_end_anew(); });
  static_cast<void>(told);
  conclude(result);
  return result;
}

Status Outgoing::Impl::setup(Connector& connector) {
  MIGRATE_TRY(check_attempts());
  session::fill_random(session_id_.bytes);
  MIGRATE_ASSIGN(description_, guest_->describe());
  connector_ = &connector;
  use_connector(&connector);
  if (gate_.load() == Gate::kCancelled) {
    return cancelled_error();
  }
  MIGRATE_TRY(make_session(connector));
  for (std::uint32_t i = 0; i < description_.regions.size(); ++i) {
    MIGRATE_TRY(ledger_->add(i, description_.regions[i]));
  }
  rounds_ = std::make_unique<precopy::Rounds>(precopy::Rounds::Context{
      guest_->pages(), guest_->tracker(), *ledger_, *digest_, senders_.get(), &driver_->control(),
      clock_, options_.peer_timeout, [this](std::uint64_t pages) { return on_progress(pages); },
      [this](const precopy::DirtySample& sample) { return on_sample(sample); }});
  return {};
}

Status Outgoing::Impl::make_session(Connector& connector) {
  OutgoingOptions wanted = options_;
  if (guest_->waiting_packets() == nullptr) wanted.forward = std::chrono::milliseconds(0);
  auto opened = session::open_session(
      session_id_, connector, description_, wanted, [this](Channel* channel) { watch(channel); },
      refused_);
  watch(nullptr);
  use_connector(nullptr);
  if (!opened) return std::move(opened).error().at(Phase::kSetup);
  round_trip_ms_ = opened->round_trip_ms;
  declared_load_ms_ = static_cast<double>(opened->welcome.load_us) / 1000;
  agreed_ = {opened->welcome.encodings, opened->welcome.codecs};
  resume_agreed_ = (opened->welcome.features & wire::kFeatureResume) != 0;
  postcopy_agreed_ = (opened->welcome.features & wire::kFeaturePostcopy) != 0;
  const bool forward = (opened->welcome.features & wire::kFeatureForward) != 0;
  if (options_.forward.count() > 0 && !forward) {
    say("forward-unavailable",
        guest_->waiting_packets() == nullptr
            ? "nothing is forwarded: the guest has no network cards whose frames can be had"
            : "nothing is forwarded: the target cannot give the guest frames",
        Phase::kSetup);
  }
  bulk_lanes_ = opened->welcome.bulk_lanes;
  target_identity_ = opened->control->channel().peer_identity();
  digest_.emplace(opened->hasher);
  ledger_ = std::make_unique<PageLedger>(digest_->zero_hash());
  make_limiter();
  SourceDriver::Context context{
      .guest = *guest_,
      .connector = &connector,
      .arbiter = arbiter_,
      .clock = clock_,
      .options = options_,
      .keys = {session_id_, to_text(session_id_), opened->welcome.secret, opened->hasher,
               opened->welcome.boot},
      .watch = [this](Channel* channel) { watch(channel); },
      .say = [this](
                 std::string name,
                 std::string detail) { say(std::move(name), std::move(detail), Phase::kHandover); },
      .check_ready = [this](const wire::Ready& ready) { return check_ready(ready); },
      .close_gate =
          [this] {
            Gate open = Gate::kOpen;
            return gate_.compare_exchange_strong(open, Gate::kClosed);
          },
      .make_offer = [this](std::uint32_t attempt) { return make_offer(attempt); },
      .hash_took = [this] { return verify_took_; },
      .lanes_failure = [this]() -> std::optional<Error> {
        return lazy_source_ != nullptr ? lazy_source_->failure() : std::nullopt;
      },
      .packets = forward ? guest_->waiting_packets() : nullptr};
  driver_ = std::make_unique<SourceDriver>(std::move(context), std::move(opened->control));
  watch(&driver_->control().channel());
  make_senders(std::move(opened->lanes));
  return {};
}

/// Lanes beyond two take from what the cache may have, for a side is promised to stay within 64 MiB
/// and 16 bytes a page with the options as they come. A quarter of it is left in any case.
std::uint64_t Outgoing::Impl::delta_cache_bytes(std::size_t lanes) const {
  const std::uint64_t all = options_.delta_cache_bytes;
  const std::uint64_t taken = lanes > 2 ? (lanes - 2) * kLaneBytes : 0;
  return std::max(all / 4, all - std::min(all, taken));
}

void Outgoing::Impl::make_senders(std::vector<std::unique_ptr<RecordChannel>> lanes) {
  const std::size_t count = lanes.size();
  senders_ = std::make_unique<BulkSenders>(
      std::move(lanes),
      BulkSenders::Context{guest_->pages(), *ledger_, *digest_, limiter_.get(),
                           options_.peer_timeout, agreed_, options_.compress,
                           delta_cache_bytes(count), [this] { return keep_alive(); }});
  MutexLock lock(watch_mutex_);
  sending_ = senders_.get();
  // A cancel that came meanwhile.
  if (gate_.load() == Gate::kCancelled) sending_->cancel();
}

void Outgoing::Impl::use_connector(Connector* connector) {
  MutexLock lock(watch_mutex_);
  connecting_ = connector;
  if (connector != nullptr && gate_.load() == Gate::kCancelled) connector->interrupt();
}

void Outgoing::Impl::watch(Channel* channel) {
  MutexLock lock(watch_mutex_);
  watched_ = channel;
  // A cancel that came while no channel was watched.
  if (channel != nullptr && gate_.load() == Gate::kCancelled) channel->interrupt();
}

bool Outgoing::Impl::cancel() noexcept {
  Gate open = Gate::kOpen;
  if (!gate_.compare_exchange_strong(open, Gate::kCancelled)) return open == Gate::kCancelled;
  MutexLock lock(watch_mutex_);
  if (watched_ != nullptr) watched_->interrupt();
  if (connecting_ != nullptr) connecting_->interrupt();
  if (sending_ != nullptr) sending_->cancel();
  cancelled_.notify_all();
  return true;
}

// A lane that breaks is often the target's way of saying that it failed; its reason comes on the
// control lane.
Error Outgoing::Impl::explain(Error error) {
  if (error.phase == Phase::kNone) error.phase = phase_;
  if (error.side == Side::kTarget) return error;
  if (gate_.load() == Gate::kCancelled) {
    return cancelled_error().at(phase_);
  }
  error.side = Side::kSource;
  if (error.code != ErrorCode::kLinkLost && error.code != ErrorCode::kCancelled) return error;
  auto until = clock_.now() + kExplainPatience;
  // The guest may stand.
  if (attempt_until_) until = std::min(until, *attempt_until_);
  while (clock_.now() < until) {
    auto record = driver_->control().receive_whole(until);
    if (record && record->header.type != wire::RecordType::kDiscarded) continue;
    if (record) {
      auto discarded = wire::decode<wire::Discarded>(record->body);
      if (discarded) return std::move(discarded->error).on(Side::kTarget);
      break;
    }
    if (record.error().side == Side::kTarget) return std::move(record).error();
    break;
  }
  return error;
}

void Outgoing::Impl::fail_before_session(Error error, OutgoingResult& result) {
  const bool cancelled = gate_.load() == Gate::kCancelled;
  if (cancelled) error = cancelled_error();
  if (error.phase == Phase::kNone) error.phase = Phase::kSetup;
  if (refused_) error.phase = Phase::kPreflight;
  if (error.side == Side::kNone) error.side = Side::kSource;
  result.outcome = cancelled  ? Outcome::kCancelled
                   : refused_ ? Outcome::kRefused
                              : Outcome::kFailed;
  report_.error = std::move(error);
  fill_report(result);
  result.guest = std::move(guest_);
}

void Outgoing::Impl::conclude(OutgoingResult& result) {
  watch(nullptr);
  note_lazy_figures();
  lazy_source_.reset();
  drop_lanes();
  const SourceState state = driver_->machine().state();
  report_.error = driver_->error();
  if (tracking_ && state != SourceState::kReleased) {
    Status stopped = guest_->tracker().stop();
    if (!stopped) say("tracker-stop-failed", stopped.error().to_text());
  }
  switch (state) {
    case SourceState::kReleased:
      result.outcome = driver_->machine().lost() ? Outcome::kLost : Outcome::kDone;
      if (result.outcome == Outcome::kDone) report_.error.reset();
      break;
    case SourceState::kKept: {
      // A target that was told to stop receiving has failed us; nobody cancelled anything here.
      const bool cancelled = report_.error && report_.error->code == ErrorCode::kCancelled &&
                             report_.error->side != Side::kTarget;
      result.outcome = cancelled ? Outcome::kCancelled : Outcome::kFailed;
      break;
    }
    default:
      result.outcome = Outcome::kUncertain;
      break;
  }
  // A guest that was released has no vCPUs any more.
  if (state != SourceState::kReleased) undo_throttle();
  if (result.outcome == Outcome::kCancelled) {
    // Whatever call noticed it first.
    const Phase phase = report_.error->phase;
    report_.error = cancelled_error().at(phase);
  }
  if (report_.error && report_.error->phase == Phase::kNone) report_.error->phase = phase_;
  if (report_.error && report_.error->remedy.empty()) {
    report_.error->remedy = "see the target's output for the reason, then send again";
  }
  if (result.outcome == Outcome::kLost) {
    Error error = make_error(ErrorCode::kGuestLost,
                             "the guest had started at the target, and its process there is gone");
    if (report_.error) error.message += " (" + report_.error->message + ")";
    report_.error = std::move(error)
                        .advise("see the target's output for the reason, and start the guest anew")
                        .at(Phase::kHandover)
                        .on(Side::kTarget);
  }
  const bool owes = driver_->machine().doubt() == session::Doubt::kPagesOwed;
  if (result.outcome == Outcome::kUncertain && owes) {
    Error error = make_error(ErrorCode::kUncertain,
                             std::string(session::to_text(driver_->machine().doubt())));
    if (report_.error) error.message += " (" + report_.error->message + ")";
    report_.error = std::move(error)
                        .advise(
                            "see the target's output for what it lacks; once it is given up, "
                            "`migrate resolve NAME --release --force` drops what is kept here")
                        .at(Phase::kPostcopy)
                        .on(Side::kSource);
  } else if (result.outcome == Outcome::kUncertain) {
    const std::string_view doubt = session::to_text(driver_->machine().doubt());
    Error error = make_error(ErrorCode::kUncertain,
                             "it is not known whether the guest runs at the target; it is kept "
                             "paused here: " +
                                 std::string(doubt));
    if (report_.error) error.message += " (" + report_.error->message + ")";
    report_.error = std::move(error)
                        .advise(
                            "see whether it runs there, then `migrate resolve NAME --resume` or "
                            "`--release`")
                        .at(Phase::kHandover)
                        .on(Side::kSource);
  }
  fill_report(result);
  if (result.outcome == Outcome::kUncertain) {
    result.uncertain = session::make_uncertain(std::move(driver_));
  }
  // The peer sees the end now, not when this object goes.
  rounds_.reset();
  driver_.reset();
  result.guest = std::move(guest_);
}

/// What the guest moved by, which may be more than was asked for, or less.
Strategy Outgoing::Impl::strategy_taken() const {
  if (options_.strategy == Strategy::kPostcopy || options_.strategy == Strategy::kStopCopy) {
    return options_.strategy;
  }
  return lazy_ ? Strategy::kHybrid : Strategy::kPrecopy;
}

void Outgoing::Impl::note_lazy_figures() {
  if (lazy_source_ == nullptr) return;
  const auto figures = lazy_source_->figures();
  report_.pages.demand = figures.demanded;
  report_.pages.pushed = figures.pushed;
  bulk_.raw += figures.raw;
  bulk_.zero += figures.zero;
  bulk_.wire_bytes += figures.wire_bytes;
  bulk_.cpu += figures.cpu;
}

void Outgoing::Impl::fill_report(OutgoingResult& result) {
  report_.outcome = result.outcome;
  report_.side = Side::kSource;
  report_.strategy = to_string(strategy_taken());
  report_.session = to_text(session_id_);
  for (const OptionSpec& option : outgoing_option_registry()) {
    report_.options.emplace_back(option.name, option.get(options_));
  }
  report_.guest.name = description_.name;
  report_.guest.kind = to_string(description_.kind);
  report_.guest.vcpus = description_.vcpus;
  for (const Region& region : description_.regions) {
    report_.guest.memory_bytes += region.range.bytes();
    report_.pages.total += region.range.count;
  }
  report_.guest.tracker = guest_->tracker().name();
  if (driver_ != nullptr) {
    report_.attempts = driver_->machine().attempt();
    if (report_.attempts > 0) {
      report_.guest.state = to_string(driver_->times().run_before);
      fill_downtime(driver_->times());
    }
    const auto& forwarded = driver_->forwarded();
    report_.forwarded = {forwarded.frames, forwarded.bytes, forwarded.dropped};
  }
  report_.total_ms = elapsed_ms();
  report_.pages.raw = bulk_.raw;
  report_.pages.zero = bulk_.zero;
  report_.pages.unchanged = bulk_.unchanged;
  report_.pages.delta = bulk_.delta;
  report_.pages.duplicate = bulk_.duplicate;
  report_.pages.compressed = bulk_.compressed;
  report_.bytes.wire = bulk_.wire_bytes;
  report_.bytes.guest = (bulk_.sent() + bulk_.zero + bulk_.unchanged) * kPageSize;
  if (report_.total_ms > 0) {
    report_.bandwidth_mib_s =
        static_cast<double>(bulk_.wire_bytes) / 1048576 / (report_.total_ms / 1000);
  }
  report_.cpu_s = duration<double>(thread_cpu() - cpu_begin_ + bulk_.cpu).count();
  result.report = report_;
}

// Phases from the last vCPU's exit to STARTED. The hosts' clocks differ, so the target tells its
// own durations, and what is left of the whole is the handover: messages, waking, the network.
void Outgoing::Impl::fill_downtime(const SourceDriver::Times& times) {
  if (times.run_before == RunState::kPaused || !times.started || !times.ready) return;
  const double verify_ms = to_ms(verify_took_) + static_cast<double>(times.ready->verify_us) / 1000;
  const double whole = to_ms(times.started_at - times.stopped_at) - round_trip_ms_ / 2 - verify_ms;
  auto& phases = report_.phases_ms;
  phases.quiesce = to_ms(times.paused_at - times.stopped_at);
  phases.final_sync = to_ms(rounds_->final_collect());
  phases.state_save = to_ms(save_took_);
  phases.final_pages = to_ms(times.offered_at - final_begin_) - to_ms(verify_took_);
  // With it the target had applied all before the source hashed.
  if (options_.verify != VerifyMode::kFull) {
    phases.final_pages += static_cast<double>(times.ready->final_apply_us) / 1000;
  }
  phases.state_load =
      static_cast<double>(times.ready->state_load_us + times.ready->acquire_us) / 1000;
  phases.start = static_cast<double>(times.started->start_us) / 1000;
  phases.verify = verify_ms;
  const double told = phases.quiesce + phases.final_sync + phases.state_save + phases.final_pages +
                      phases.state_load + phases.start;
  // Half a round trip is an estimate, and at most what messages took: the rest was measured.
  phases.handover = std::max(0.0, whole - told);
  report_.downtime_ms = told + phases.handover;
}

void Outgoing::Impl::say(std::string name, std::string detail, Phase phase) {
  if (observer_ == nullptr) return;
  const std::uint32_t round = rounds_ != nullptr ? rounds_->round() : 0;
  // What an observer has no memory for is no matter of the guest's.
  Status said = guarded([&]() -> Status {
    observer_->on_event({std::move(name), phase, round, std::move(detail)});
    return {};
  });
  static_cast<void>(said);
}

double Outgoing::Impl::elapsed_ms() const { return to_ms(clock_.now() - begin_); }

Outgoing::Outgoing(std::unique_ptr<SourceGuest> guest, OutgoingOptions options, Observer* observer,
                   Arbiter* arbiter, Clock& clock)
    : impl_(
          std::make_unique<Impl>(std::move(guest), std::move(options), observer, arbiter, clock)) {}
Outgoing::~Outgoing() = default;
OutgoingResult Outgoing::run(Connector& connector) { return impl_->run(connector); }
bool Outgoing::cancel() noexcept { return impl_->cancel(); }

}  // namespace migrate
