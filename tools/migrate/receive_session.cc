#include "receive_session.hpp"

#include <poll.h>

#include <array>
#include <csignal>

#include "base/log.hpp"
#include "base/start_thread.hpp"
#include "session/host_identity.hpp"
#include "session/journal.hpp"
#include "wire/ids.hpp"

namespace migrate::tool {
namespace {

// The engine's own deadline comes first, and tells the peer.
constexpr std::chrono::milliseconds kHelloGrace{1'000};

}  // namespace

Result<std::unique_ptr<ReceiveSession>> ReceiveSession::create(RuntimeDir folder,
                                                               ReceiveOptions options,
                                                               const GlobalOptions& global) {
  MIGRATE_ASSIGN(auto arrival, make_arrival(options.accept, options.guest, folder));
  MIGRATE_ASSIGN(EventFd wake, EventFd::create());
  return std::unique_ptr<ReceiveSession>(new ReceiveSession(
      std::move(folder), std::move(options), global, std::move(arrival), std::move(wake)));
}

ReceiveSession::ReceiveSession(RuntimeDir folder, ReceiveOptions options,
                               const GlobalOptions& global, std::unique_ptr<Arrival> arrival,
                               EventFd wake)
    : folder_(std::move(folder)),
      options_(std::move(options)),
      global_(global),
      arrival_(std::move(arrival)),
      wake_(std::move(wake)),
      line_(stderr, !global.json),
      takeover_(options_.takeover),
      incoming_(std::make_unique<Incoming>(arrival_->make_target([this] { discarded(); }),
                                           options_.incoming, static_cast<Incoming::Host&>(*this),
                                           static_cast<Observer*>(this), nullptr, system_clock(),
                                           &takeover_)) {}

ReceiveSession::~ReceiveSession() {
  if (!thread_.joinable()) return;
  incoming_->cancel();
  thread_.join();
}

Status ReceiveSession::on_described(const GuestDescription& description) {
  {
    MutexLock lock(mutex_);
    described_ = true;
  }
  const std::string& name = options_.guest.name.empty() ? description.name : options_.guest.name;
  MIGRATE_ASSIGN(NameLock lock, folder_.take_name(name));
  MIGRATE_ASSIGN(guest_, arrival_->make_guest(description, name));
  cards_ = arrival_->cards(description);
  // All but the socket: the rest is done before the downtime.
  MIGRATE_ASSIGN(hosting_, Hosting::create(*guest_, std::move(lock), folder_, true));
  return {};
}

Status ReceiveSession::on_ready() {
  MIGRATE_TRY(hosting_->open());
  takeover_.prepare(cards_, guest_->facts().name);
  const AnnounceChoice& announce = options_.takeover.announce;
  hosting_->host().set_network({announced_cards(cards_, announce), announce.schedule,
                                [this] { return takeover_.stop_announcing(); }});
  return {};
}

void ReceiveSession::on_started() {
  arrival_->started();
  if (!memory_follows_) arrival_->memory_complete();
  hosting_->host().arrived();
  MutexLock lock(mutex_);
  started_ = true;
  wake_.set();
}

void ReceiveSession::on_memory(Memory memory, const std::string& reason) {
  memory_follows_ = memory != Memory::kComplete;
  if (!memory_follows_) arrival_->memory_complete();
  hosting_->host().set_memory(memory, reason);
}

void ReceiveSession::on_event(const Event& event) {
  line_.show(event);
  log_line(LogLevel::kInfo, event_text(event));
}

/// The source keeps the guest: its name is free again, also while its questions are awaited.
void ReceiveSession::discarded() {
  hosting_.reset();
  guest_.reset();
}

void ReceiveSession::migrate(std::unique_ptr<Acceptor> acceptor, const Reopen& reopen,
                             const std::function<void()>& on_migration_over) {
  IncomingResult result = incoming_->run(*acceptor);
  waiting_memory_ = std::move(result.waiting_memory);
  if (is_started()) target_ = std::move(result.guest);
  acceptor.reset();
  line_.clear();
  if (is_started()) answer_late_questions(result.report, reopen);
  Json report = to_json(result.report, host_facts());
  // Before the hook is waited for: it may take long, and is no arriving guest.
  on_migration_over();
  // Waits until the network has been told all: nobody is kept waiting but the reader.
  if (result.outcome == Outcome::kDone) report["takeover"] = takeover_.report();
  print_report(global_, report);
  if (global_.json && result.report.error) {
    log_line(LogLevel::kWarning, result.report.error->to_text());
  }
  MutexLock lock(mutex_);
  if (started_) {
    hosting_->host().set_arrival_report(report);
  } else {
    discarded();
  }
  outcome_ = result.outcome;
  wake_.set();
}

void ReceiveSession::answer_late_questions(const Report& report, const Reopen& reopen) {
  const auto session = wire::parse_session_id(report.session);
  // The record goes when the source has confirmed: nobody will ask.
  const auto asked =
      session::consult_journal(options_.incoming.runtime_dir, *session, session::this_boot());
  if (!asked.hand_over && asked.answer.state != session::RecordState::kStarted) return;
  auto acceptor = reopen();
  if (acceptor) {
    responder_ = std::make_unique<AskResponder>(*std::move(acceptor), *session, report.attempts);
  } else {
    log_line(LogLevel::kWarning, acceptor.error().to_text());
  }
}

int ReceiveSession::run(std::unique_ptr<Acceptor> acceptor, Reopen reopen, const SignalFd& signals,
                        const std::function<void()>& on_migration_over) {
  Status begun = start_thread(thread_, "migration", [this, &acceptor, &reopen, &on_migration_over] {
    migrate(std::move(acceptor), reopen, on_migration_over);
  });
  if (!begun) {
    acceptor.reset();
    on_migration_over();
    return fail(global_, begun.error());
  }
  const bool started = wait_for_start(signals);
  const int code = started ? host(signals) : to_int(ExitCode::kFailed);
  takeover_.stop();
  incoming_->guest_ended();
  // The source may still have to be told how it went: at most the ask window.
  thread_.join();
  responder_.reset();
  MutexLock lock(mutex_);
  if (outcome_ == Outcome::kLost) return to_int(ExitCode::kLost);
  if (outcome_ == Outcome::kCancelled && cancelled_here_) return to_int(ExitCode::kCancelled);
  return code;
}

bool ReceiveSession::is_started() {
  MutexLock lock(mutex_);
  return started_;
}

bool ReceiveSession::is_described() {
  MutexLock lock(mutex_);
  return described_;
}

/// False when the session ended without a guest.
bool ReceiveSession::wait_for_start(const SignalFd& signals) {
  const auto hello_time = options_.incoming.hello_timeout + kHelloGrace;
  int timeout = options_.hello_is_due ? static_cast<int>(hello_time.count()) : -1;
  for (;;) {
    std::array<pollfd, 2> waits = {pollfd{signals.fd(), POLLIN, 0}, pollfd{wake_.fd(), POLLIN, 0}};
    const int ready = poll(waits.data(), waits.size(), timeout);
    if (ready < 0) continue;
    if (ready == 0) {
      timeout = -1;
      if (!is_described()) incoming_->cancel();
    }
    wake_.clear();
    if (waits[0].revents != 0 && signals.take() != 0) {
      if (incoming_->cancel()) {
        cancelled_here_ = true;
      } else {
        log_line(LogLevel::kWarning, "the handover is committed: stopping once it is over");
        stop_wanted_ = true;
      }
    }
    MutexLock lock(mutex_);
    if (started_) return true;
    if (outcome_) return false;
  }
}

int ReceiveSession::host(const SignalFd& signals) {
  if (stop_wanted_) {
    if (const Status stopped = hosting_->host().stop(); !stopped) {
      log_line(LogLevel::kWarning, stopped.error().to_text());
    }
  }
  const HostEnd end = hosting_->serve(signals);
  if (end.kind != HostEnd::Kind::kCrashed) return to_int(ExitCode::kDone);
  Error error = end.error.value_or(make_error(ErrorCode::kGuestLost, "the guest crashed"));
  error.code = ErrorCode::kGuestLost;
  // Standard output has had its one object, the report.
  GlobalOptions telling = global_;
  telling.json = false;
  return fail(telling, error);
}

}  // namespace migrate::tool
