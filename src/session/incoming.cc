#include <algorithm>

#include "base/guarded.hpp"
#include "session/host_identity.hpp"
#include "session/incoming_impl.hpp"
#include "wire/negotiation.hpp"

namespace migrate {
namespace {

using session::Introductions;
using session::TargetState;
using std::chrono::duration;
using std::chrono::milliseconds;

constexpr milliseconds kReplyPatience{1'000};

double to_ms(nanoseconds time) { return duration<double, std::milli>(time).count(); }

bool says_no_to_the_guest(ErrorCode code) {
  return code != ErrorCode::kCancelled && code != ErrorCode::kLinkLost &&
         code != ErrorCode::kTimeout && code != ErrorCode::kProtocol;
}

Error lease_expired_error() {
  return make_error(ErrorCode::kLeaseExpired,
                    "no COMMIT came while this side was ready, and its lease ran out")
      .advise("check the link; the guest is at the source, see its output")
      .at(Phase::kHandover)
      .on(Side::kTarget);
}

}  // namespace

Incoming::Impl::Impl(std::unique_ptr<TargetGuest> guest, IncomingOptions options, Host& host,
                     Observer* observer, Arbiter* arbiter, Clock& clock, Takeover* takeover)
    : guest_(std::move(guest)),
      options_(std::move(options)),
      host_(host),
      observer_(observer),
      arbiter_(arbiter),
      clock_(clock),
      takeover_(takeover),
      state_(options_.state_bytes_max) {
  MIGRATE_CHECK(guest_ != nullptr);
}

IncomingResult Incoming::Impl::run(Acceptor& acceptor) {
  begin_ = clock_.now();
  IncomingResult result;
  {
    Introductions introductions(
        {acceptor, options_.hello_timeout, options_.peer_timeout,
         [this](const wire::SessionId& other) {
           const auto found =
               session::consult_journal(options_.runtime_dir, other, session::this_boot());
           return wire::Answer{static_cast<wire::JournalState>(found.answer.state),
                               found.answer.attempt, found.answer.boot, found.answer.process_lives};
         },
         [this] { wake(); }, [this] { on_lane(); }, [this] { on_resume(); }});
    {
      MutexLock lock(watch_mutex_);
      introductions_ = &introductions;
    }
    Status ready = gate_.load() == Gate::kCancelled
                       ? make_error(ErrorCode::kCancelled, "receiving was cancelled")
                       : guarded([&] { return setup(introductions); });
    if (!ready) {
      refuse(std::move(ready).error());
    } else {
      report_.phases_ms.setup = elapsed_ms();
      serve(introductions);
      // What there is no memory to answer stands in the journal.
      Status lingered = guarded([&]() -> Status {
        linger(introductions);
        return {};
      });
      static_cast<void>(lingered);
    }
    MutexLock lock(watch_mutex_);
    introductions_ = nullptr;
    receiving_ = nullptr;
  }
  finish(result);
  return result;
}

Status Incoming::Impl::setup(Introductions& introductions) {
  MIGRATE_ASSIGN(auto arrival, introductions.wait_for_hello());
  begin_ = clock_.now();  // Waiting for a source is not part of a migration.
  control_ = std::move(arrival.control);
  const wire::Hello& hello = arrival.hello;
  MIGRATE_ASSIGN(const auto welcome, accept_hello(hello));
  MIGRATE_ASSIGN(auto journal, session::Journal::create(options_.runtime_dir, hello.session,
                                                        session::this_boot()));
  return begin_session(introductions, hello, welcome, std::move(journal));
}

Result<wire::Welcome> Incoming::Impl::accept_hello(const wire::Hello& hello) {
  session_id_ = hello.session;
  description_ = hello.guest;
  strategy_ = hello.strategy;
  verify_ = hello.verify;
  wire::TargetTerms terms;
  terms.encodings = wire::kEncodingsKnown;
  terms.codecs = wire::kCodecsKnown;
  terms.limits.state_bytes = options_.state_bytes_max;
  if (guest_->packet_sink() == nullptr) terms.features &= ~wire::kFeatureForward;
  MIGRATE_ASSIGN(auto welcome, wire::negotiate(hello, terms));
  Status fits = host_.on_described(description_);
  if (fits) fits = guest_->prepare(description_);
  if (!fits) {
    refused_ = says_no_to_the_guest(fits.error().code);
    return std::move(fits).error().at(Phase::kPreflight);
  }
  MIGRATE_TRY(check_postcopy(hello, welcome));
  session::fill_random(welcome.random.bytes);
  session::fill_random(welcome.secret.bytes);
  // Not worth a refusal: the source then reckons with what is usual.
  if (const auto load = guest_->rehearse_load()) {
    welcome.load_us = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(*load).count());
  }
  welcome.boot = session::this_boot();
  welcome.host = session::host_name();
  return welcome;
}

Status Incoming::Impl::begin_session(Introductions& introductions, const wire::Hello& hello,
                                     const wire::Welcome& welcome, session::Journal journal) {
  const wire::Hasher hasher(hello.random, welcome.random);
  digest_.emplace(hasher);
  ledger_ = std::make_unique<PageLedger>(digest_->zero_hash());
  for (std::uint32_t i = 0; i < description_.regions.size(); ++i) {
    MIGRATE_TRY(ledger_->add(i, description_.regions[i]));
  }
  agreed_ = {welcome.encodings, welcome.codecs};
  resume_agreed_ = (welcome.features & wire::kFeatureResume) != 0;
  postcopy_agreed_ = (welcome.features & wire::kFeaturePostcopy) != 0;
  attempts_agreed_ = (welcome.features & wire::kFeatureAttempts) != 0;
  forward_agreed_ = (welcome.features & wire::kFeatureForward) != 0;
  introductions.expect(session_id_, welcome.secret, hasher, welcome.bulk_lanes, postcopy_agreed_);
  MIGRATE_TRY(control_->send(welcome, options_.hello_timeout));
  control_->set_hasher(hasher);
  MIGRATE_ASSIGN(auto lanes, wait_for_lanes(introductions));
  session::TargetDriver::Context context{
      .guest = *guest_,
      .arbiter = arbiter_,
      .clock = clock_,
      .lease = options_.lease,
      .idle_max = options_.peer_timeout,
      .session = to_text(session_id_),
      .boot = welcome.boot,
      .load = [this](std::uint32_t attempt) { return load(attempt); },
      .run_state = [this] { return offer_->run_state; },
      .on_started =
          [this] {
            if (lazy_target_ != nullptr) host_.on_memory(Host::Memory::kFollows, {});
            host_.on_started();
          },
      .on_told = [this] { tell_network(); },
      .stop_lanes = [this] { stop_lanes(); }};
  driver_ = std::make_unique<session::TargetDriver>(std::move(context), std::move(journal),
                                                    control_.get());
  return make_receivers(std::move(lanes));
}

Status Incoming::Impl::make_receivers(std::vector<std::unique_ptr<RecordChannel>> lanes) {
  receivers_ = std::make_unique<BulkReceivers>(
      std::move(lanes), BulkReceivers::Context{guest_->pages(), *ledger_, *digest_,
                                               options_.peer_timeout, [this] { wake(); }, round_,
                                               agreed_, heard_, [this] { return keep_alive(); }});
  round_begin_ = clock_.now();
  if (auto failed = receivers_->failure()) return *std::move(failed);
  MutexLock lock(watch_mutex_);
  receiving_ = receivers_.get();
  return {};
}

/// A source that gives up meanwhile says so on the control lane, or closes it.
Result<std::vector<std::unique_ptr<RecordChannel>>> Incoming::Impl::wait_for_lanes(
    Introductions& introductions) {
  set_awaiting_lanes(true);
  auto lanes = wait_for_lanes_or_end(introductions);
  set_awaiting_lanes(false);
  return lanes;
}

void Incoming::Impl::set_awaiting_lanes(bool awaiting) {
  MutexLock lock(watch_mutex_);
  awaiting_lanes_ = awaiting;
}

/// A lane's news may be late: the coordinator has taken the lane and reads a record, which must not
/// be cut short.
void Incoming::Impl::on_lane() noexcept {
  MutexLock lock(watch_mutex_);
  if (!awaiting_lanes_) return;
  woken_ = true;
  if (watched_ != nullptr) watched_->interrupt();
}

Result<std::vector<std::unique_ptr<RecordChannel>>> Incoming::Impl::wait_for_lanes_or_end(
    Introductions& introductions) {
  const auto until = clock_.now() + options_.hello_timeout;
  for (;;) {
    const nanoseconds left = std::max(nanoseconds(0), until - clock_.now());
    auto lanes = introductions.wait_for_lanes(nanoseconds(0));
    if (lanes || lanes.error().code != ErrorCode::kTimeout || left.count() == 0) return lanes;
    if (!begin_watch()) continue;
    auto next = control_->next_type(left);
    if (end_watch(true)) continue;
    if (!next && next.error().code == ErrorCode::kTimeout) continue;
    if (!next) return std::move(next).error();
    if (*next == wire::RecordType::kAbort || *next == wire::RecordType::kError) {
      auto end = control_->receive(options_.hello_timeout);
      if (!end) return std::move(end).error();
      // Whatever came after a first byte that looked like one of these, it was not its turn.
      return RecordChannel::unexpected(*end, wire::RecordType::kJoin);
    }
    // It is past this already: the last lane is about to be let in here, too.
    return introductions.wait_for_lanes(left);
  }
}

void Incoming::Impl::stop_lanes() {
  {
    MutexLock lock(watch_mutex_);
    receiving_ = nullptr;
  }
  receivers_.reset();
  lazy_target_.reset();
}

void Incoming::Impl::refuse(Error error) {
  if (gate_.load() == Gate::kCancelled) {
    error = make_error(ErrorCode::kCancelled, "receiving was cancelled");
  }
  if (error.phase == Phase::kNone) error.phase = Phase::kSetup;
  if (error.side == Side::kNone) error.side = Side::kTarget;
  if (control_ != nullptr) {
    Status sent = control_->send(wire::ErrorRecord{error}, kReplyPatience);
    static_cast<void>(sent);
  }
  if (driver_ != nullptr) {
    // No round has begun: nobody will ask what became of this session.
    stop_lanes();
    driver_->journal().remove();
    driver_.reset();
  }
  control_.reset();
  guest_->discard();
  early_error_ = std::move(error);
}

/// A source that waits for READY's lease hears of us meanwhile. In the rounds nobody listens: it
/// reads the control lane at barriers, and what is said there before would fill the socket. It is
/// silent when it is so on all lanes.
std::optional<Result<RecordChannel::Record>> Incoming::Impl::receive(nanoseconds idle_max) {
  const bool lanes_count = driver_->machine().state() == TargetState::kReceiving;
  auto heard_at = clock_.now();
  const auto all_heard = [&] {
    return control_->received_bytes() +
           (lanes_count ? heard_.load(std::memory_order_relaxed) : std::uint64_t{0});
  };
  std::uint64_t heard = all_heard();
  for (;;) {
    const nanoseconds left = idle_max - (clock_.now() - heard_at);
    const nanoseconds period = RecordChannel::alive_period(options_.peer_timeout);
    auto record = receive_once(std::clamp<nanoseconds>(left, nanoseconds(0), period));
    if (!record || *record || record->error().code != ErrorCode::kTimeout) return record;
    const auto now = clock_.now();
    // A lease does not depend on what is said meanwhile.
    if (std::exchange(heard, all_heard()) != heard && lanes_count) heard_at = now;
    if (now - heard_at >= idle_max) return record;
    if (lanes_count) continue;
    if (Status said = keep_alive(); !said) return Result<RecordChannel::Record>(said.error());
  }
}

Status Incoming::Impl::keep_alive() {
  // Nobody waits for us on a connection that asks, and after the end.
  if (asked_ || (driver_ != nullptr && driver_->machine().ended())) return {};
  return control_->keep_alive(options_.peer_timeout);
}

std::optional<Result<RecordChannel::Record>> Incoming::Impl::receive_once(nanoseconds idle_max) {
  if (!begin_watch()) return std::nullopt;
  auto record = guarded([&] { return control_->receive(idle_max); });
  const bool lost = !record && record.error().code == ErrorCode::kCancelled;
  if (end_watch(lost)) return std::nullopt;
  return record;
}

/// False when somebody has woken us already.
bool Incoming::Impl::begin_watch() {
  MutexLock lock(watch_mutex_);
  if (std::exchange(woken_, false)) return false;
  watched_ = &control_->channel();
  return true;
}

/// Whether somebody has woken us; noted as served if `serve`. From here on nothing interrupts the
/// channel: what is sent next leaves whole.
bool Incoming::Impl::end_watch(bool serve) {
  MutexLock lock(watch_mutex_);
  watched_ = nullptr;
  if (!woken_) return false;
  control_->channel().resume_after_interrupt();
  if (serve) woken_ = false;
  return serve;
}

void Incoming::Impl::wake() noexcept {
  MutexLock lock(watch_mutex_);
  woken_ = true;
  if (watched_ != nullptr) watched_->interrupt();
}

bool Incoming::Impl::cancel() noexcept {
  Gate open = Gate::kOpen;
  if (!gate_.compare_exchange_strong(open, Gate::kCancelled)) return open == Gate::kCancelled;
  MutexLock lock(watch_mutex_);
  woken_ = true;
  if (watched_ != nullptr) watched_->interrupt();
  if (introductions_ != nullptr) introductions_->interrupt();
  if (receiving_ != nullptr) receiving_->cancel();
  return true;
}

void Incoming::Impl::finish(IncomingResult& result) {
  receivers_.reset();
  if (driver_ == nullptr) {
    report_.error = early_error_;
    const bool cancelled = early_error_ && early_error_->code == ErrorCode::kCancelled;
    result.outcome = cancelled  ? Outcome::kCancelled
                     : refused_ ? Outcome::kRefused
                                : Outcome::kFailed;
  } else if (driver_->machine().state() == TargetState::kStarted) {
    result.outcome = end_of_memory(result);
  } else if (driver_->machine().state() == TargetState::kLost) {
    result.outcome = Outcome::kLost;
    report_.error = driver_->error();
  } else {
    report_.error = driver_->error();
    // Only a READY that waited in vain ends without an error on the way.
    if (!report_.error) report_.error = lease_expired_error();
    const bool cancelled = report_.error->code == ErrorCode::kCancelled;
    result.outcome = cancelled ? Outcome::kCancelled : Outcome::kFailed;
  }
  if (report_.error && report_.error->remedy.empty()) {
    report_.error->remedy = "see the source's output; the guest is there unless it says otherwise";
  }
  fill_report(result);
  lazy_target_.reset();
  // The peer sees the end now, not when this object goes; the journal's lock says until then that
  // the guest's process lives.
  if (driver_ != nullptr) journal_ = std::move(driver_->journal());
  driver_.reset();
  control_.reset();
  result.guest = std::move(guest_);
}

void Incoming::Impl::fill_report(IncomingResult& result) {
  report_.outcome = result.outcome;
  report_.side = Side::kTarget;
  if (strategy_ != Strategy::kPostcopy && strategy_ != Strategy::kStopCopy) {
    strategy_ = lazy_ == Lazy::kNone ? Strategy::kPrecopy : Strategy::kHybrid;
  }
  report_.strategy = to_string(strategy_);
  report_.session = to_text(session_id_);
  report_.guest.name = description_.name;
  report_.guest.kind = to_string(description_.kind);
  report_.guest.vcpus = description_.vcpus;
  for (const Region& region : description_.regions) {
    report_.guest.memory_bytes += region.range.bytes();
    report_.pages.total += region.range.count;
  }
  if (offer_) report_.guest.state = to_string(offer_->run_state);
  if (driver_ != nullptr) {
    report_.attempts = driver_->machine().attempt();
    report_.phases_ms.start = static_cast<double>(driver_->start_us()) / 1000;
  }
  if (report_.total_ms > 0) {
    report_.bandwidth_mib_s =
        static_cast<double>(report_.bytes.wire) / 1048576 / (report_.total_ms / 1000);
  }
  result.report = report_;
}

void Incoming::Impl::say(std::string name, std::string detail, Phase phase) {
  if (observer_ == nullptr) return;
  // What an observer has no memory for is no matter of the guest's.
  Status said = guarded([&]() -> Status {
    observer_->on_event({std::move(name), phase, round_, std::move(detail)});
    return {};
  });
  static_cast<void>(said);
}

double Incoming::Impl::elapsed_ms() const { return to_ms(clock_.now() - begin_); }

Incoming::Incoming(std::unique_ptr<TargetGuest> guest, IncomingOptions options, Host& host,
                   Observer* observer, Arbiter* arbiter, Clock& clock, Takeover* takeover)
    : impl_(std::make_unique<Impl>(std::move(guest), std::move(options), host, observer, arbiter,
                                   clock, takeover)) {}
Incoming::~Incoming() = default;
IncomingResult Incoming::run(Acceptor& acceptor) { return impl_->run(acceptor); }
bool Incoming::cancel() noexcept { return impl_->cancel(); }
void Incoming::guest_ended() noexcept { impl_->guest_ended(); }

}  // namespace migrate
