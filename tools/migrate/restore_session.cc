#include "restore_session.hpp"

#include <poll.h>

#include <array>
#include <cstdio>

#include "base/log.hpp"
#include "base/start_thread.hpp"
#include "image_json.hpp"

namespace migrate::tool {

Result<std::unique_ptr<RestoreSession>> RestoreSession::create(RuntimeDir folder,
                                                               RestoreChoice choice,
                                                               const GlobalOptions& global) {
  MIGRATE_ASSIGN(auto arrival, make_arrival(choice.accept, choice.guest, folder));
  MIGRATE_ASSIGN(EventFd wake, EventFd::create());
  return std::unique_ptr<RestoreSession>(new RestoreSession(
      std::move(folder), std::move(choice), global, std::move(arrival), std::move(wake)));
}

RestoreSession::RestoreSession(RuntimeDir folder, RestoreChoice choice, const GlobalOptions& global,
                               std::unique_ptr<Arrival> arrival, EventFd wake)
    : folder_(std::move(folder)),
      choice_(std::move(choice)),
      global_(global),
      arrival_(std::move(arrival)),
      wake_(std::move(wake)),
      line_(stderr, !global.json),
      takeover_(TakeoverChoice{choice_.announce, {}, {}}),
      restore_(std::make_unique<Restore>(arrival_->make_target([this] {
        hosting_.reset();
        guest_.reset();
      }),
                                         choice_.options, static_cast<Restore::Host&>(*this),
                                         static_cast<Observer*>(this))) {}

RestoreSession::~RestoreSession() {
  if (!thread_.joinable()) return;
  restore_->cancel();
  restore_->guest_ended();
  thread_.join();
}

Status RestoreSession::open(const GuestDescription& description) {
  const std::string& name = choice_.guest.name.empty() ? description.name : choice_.guest.name;
  MIGRATE_ASSIGN(NameLock lock, folder_.take_name(name));
  MIGRATE_ASSIGN(guest_, arrival_->make_guest(description, name));
  const std::vector<vmm::NetConfig> cards = arrival_->cards(description);
  takeover_.prepare(cards, name);
  MIGRATE_ASSIGN(hosting_, Hosting::create(*guest_, std::move(lock), folder_, true));
  hosting_->host().set_network({announced_cards(cards, choice_.announce), choice_.announce.schedule,
                                [this] { return takeover_.stop_announcing(); }});
  return hosting_->open();
}

void RestoreSession::started() {
  arrival_->started();
  if (!memory_follows_) arrival_->memory_complete();
  hosting_->host().arrived();
  takeover_.taken_over({{}, guest_->facts().name, std::chrono::steady_clock::now()});
  MutexLock lock(mutex_);
  started_ = true;
  wake_.set();
}

void RestoreSession::on_memory(Memory memory, const std::string& reason) {
  memory_follows_ = memory != Memory::kComplete;
  if (!memory_follows_) arrival_->memory_complete();
  using Arrived = Incoming::Host::Memory;
  hosting_->host().set_memory(memory == Memory::kFollows    ? Arrived::kFollows
                              : memory == Memory::kComplete ? Arrived::kComplete
                                                            : Arrived::kLost,
                              reason);
}

void RestoreSession::on_event(const Event& event) {
  line_.show(event);
  log_line(LogLevel::kInfo, event_text(event));
}

void RestoreSession::restore() {
  RestoreResult result = restore_->run();
  waiting_memory_ = std::move(result.waiting_memory);
  if (is_started()) target_ = std::move(result.guest);
  line_.clear();
  const Json report = to_json(result.report);
  MutexLock lock(mutex_);
  if (started_) {
    hosting_->host().set_arrival_report(report);
  } else {
    hosting_.reset();
    guest_.reset();
  }
  if (started_ || global_.json || !result.report.error) {
    if (global_.json) {
      print_json(report);
    } else {
      std::fputs(restore_text(report).c_str(), stdout);
    }
    std::fflush(stdout);
  }
  if (global_.json && result.report.error) {
    log_line(LogLevel::kWarning, result.report.error->to_text());
  }
  outcome_ = result.outcome;
  error_ = result.report.error;
  wake_.set();
}

bool RestoreSession::is_started() {
  MutexLock lock(mutex_);
  return started_;
}

/// False when there is no guest.
bool RestoreSession::wait_for_start(const SignalFd& signals) {
  for (;;) {
    std::array<pollfd, 2> waits = {pollfd{signals.fd(), POLLIN, 0}, pollfd{wake_.fd(), POLLIN, 0}};
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    wake_.clear();
    {
      MutexLock lock(mutex_);
      if (started_) return true;
      if (outcome_) return false;
    }
    if (waits[0].revents != 0 && signals.take() != 0) restore_->cancel();
  }
}

int RestoreSession::run(const SignalFd& signals,
                        const std::function<Status(const std::string& name)>& on_started) {
  if (const Status begun = start_thread(thread_, "restore", [this] { restore(); }); !begun) {
    return fail(global_, begun.error());
  }
  if (!wait_for_start(signals)) {
    thread_.join();
    MutexLock lock(mutex_);
    if (!global_.json && error_) return fail(global_, *error_);
    return to_int(exit_code(*outcome_));
  }
  int code = to_int(ExitCode::kFailed);
  if (const Status told = on_started(guest_->facts().name); told) {
    code = host(signals);
  } else {
    static_cast<void>(hosting_->host().stop());
    host(signals);
    code = fail(global_, told.error());
  }
  takeover_.stop();
  restore_->guest_ended();
  thread_.join();
  MutexLock lock(mutex_);
  return outcome_ == Outcome::kLost ? to_int(ExitCode::kLost) : code;
}

int RestoreSession::host(const SignalFd& signals) {
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
