#include "guest_host.hpp"

#include <poll.h>

#include <array>
#include <utility>

#include "base/log.hpp"
#include "base/start_thread.hpp"

namespace migrate::tool {
namespace {

constexpr const char* kReconnecting = "reconnecting";
// The guest still runs meanwhile; only a follower that does not read makes it this long.
constexpr std::chrono::milliseconds kSwitchoverHeardMax{200};

Error busy(const std::string& message, const std::string& remedy) {
  return make_error(ErrorCode::kBusy, message).advise(remedy);
}

}  // namespace

Result<std::unique_ptr<GuestHost>> GuestHost::create(HostedGuest& guest, EventHub& hub,
                                                     bool arriving) {
  MIGRATE_ASSIGN(EventFd wake, EventFd::create());
  MIGRATE_ASSIGN(EventFd end_recording, EventFd::create());
  return std::unique_ptr<GuestHost>(
      new GuestHost(guest, hub, std::move(wake), std::move(end_recording), arriving));
}

GuestHost::GuestHost(HostedGuest& guest, EventHub& hub, EventFd wake, EventFd end_recording,
                     bool arriving)
    : guest_(guest),
      hub_(hub),
      wake_(std::move(wake)),
      born_(std::chrono::steady_clock::now()),
      end_recording_(std::move(end_recording)),
      activity_(arriving ? Activity::kArriving : Activity::kHere) {}

GuestHost::~GuestHost() {
  std::thread thread;
  {
    MutexLock lock(mutex_);
    if (outgoing_) outgoing_->cancel();
    thread = std::move(thread_);
  }
  if (thread.joinable()) thread.join();
}

std::uint64_t GuestHost::uptime_ms() const {
  const auto age = std::chrono::steady_clock::now() - born_;
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(age).count());
}

std::string GuestHost::status() const {
  const bool reconnecting = hub_.last_event() == kReconnecting;
  MutexLock lock(mutex_);
  switch (activity_) {
    case Activity::kArriving:
      return "migrating";
    case Activity::kMigrating:
      return reconnecting ? kReconnecting : "migrating";
    case Activity::kUncertain:
    case Activity::kResolving:
      return "uncertain";
    case Activity::kRecording:
      // The pause that tells what a pause costs is nobody's business.
      if (guest_.state() == GuestState::kPaused && !recorded_paused_) return "running";
      break;
    case Activity::kCheckpointing:
      // It stands for a moment, or until its memory is written: that is not a state to act on.
      return "checkpointing";
    case Activity::kHere:
      if (memory_ == Incoming::Host::Memory::kWaits) return kReconnecting;
      break;
  }
  switch (guest_.state()) {
    case GuestState::kPaused:
      return "paused";
    case GuestState::kRunning:
      return "running";
    case GuestState::kStopped:
      return "stopped";
    case GuestState::kLeft:
      return "left";
    case GuestState::kCrashed:
      return "crashed";
  }
  return "unknown";
}

std::optional<MigrationView> GuestHost::migration() const {
  const auto progress = hub_.last_progress();
  MutexLock lock(mutex_);
  if (!request_ && !report_) return std::nullopt;
  MigrationView view;
  view.number = number_;
  if (request_) view.target = request_->target.text();
  view.running = activity_ == Activity::kMigrating;
  if (view.running) view.progress = progress;
  view.report = report_;
  return view;
}

void GuestHost::arrived() {
  MutexLock lock(mutex_);
  MIGRATE_CHECK(activity_ == Activity::kArriving);
  activity_ = Activity::kHere;
}

Result<Json> GuestHost::stats() const {
  using Memory = Incoming::Host::Memory;
  {
    MutexLock lock(mutex_);
    // Who reads what is missing waits, and nothing could end that.
    if (memory_ == Memory::kWaits || memory_ == Memory::kLost) {
      return busy("the guest's memory is not all here, and its source is not reached",
                  "see `migrate status`");
    }
  }
  return guest_.stats();
}

std::pair<std::string, std::string> GuestHost::memory() const {
  using Memory = Incoming::Host::Memory;
  MutexLock lock(mutex_);
  switch (memory_) {
    case Memory::kFollows:
      return {"follows", {}};
    case Memory::kWaits:
      return {"waits", memory_reason_};
    case Memory::kLost:
      return {"lost", memory_reason_};
    case Memory::kComplete:
      break;
  }
  return {"complete", {}};
}

void GuestHost::set_memory(Incoming::Host::Memory memory, const std::string& reason) {
  MutexLock lock(mutex_);
  memory_ = memory;
  memory_reason_ = reason;
  if (memory != Incoming::Host::Memory::kLost) return;
  // Whatever it would run on with, it would not be its memory.
  if (Status paused = guest_.pause(); !paused) {
    log_line(LogLevel::kError, paused.error().to_text());
  }
}

void GuestHost::set_arrival_report(const Json& report) {
  {
    MutexLock lock(mutex_);
    // It may be on its way to the next host already.
    if (number_ != 0) return;
    report_ = report;
  }
  hub_.publish_report(report);
}

void GuestHost::set_network(Network network) {
  MutexLock lock(mutex_);
  network_ = std::move(network);
}

/// The network may have heard that the guest is at the target.
void GuestHost::announce(const std::string& session) {
  if (network_.cards.empty()) return;
  auto made = make_announcer(network_.cards, network_.schedule);
  if (!made) {
    log_line(LogLevel::kWarning,
             "the network is not told that the guest is here: " + made.error().to_text());
    hub_.publish(Event{"announce-failed", Phase::kNone, 0, made.error().to_text()});
    return;
  }
  announcer_ = *std::move(made);
  announcer_->taken_over({session, guest_.facts().name, std::chrono::steady_clock::now()});
  hub_.publish(Event{"announced", Phase::kNone, 0, "the guest's addresses are here"});
}

/// What is still said here would bring the network back to a guest that has left. Waits for
/// nothing.
void GuestHost::end_announcements() {
  MutexLock lock(mutex_);
  if (announcer_) {
    cut_short_ = cut_short_ || !announcer_->report().over;
    announcer_->stop();
  }
  if (network_.before_leaving && network_.before_leaving()) cut_short_ = true;
}

Status GuestHost::check_here(const char* what) const {
  switch (activity_) {
    case Activity::kHere:
      return {};
    case Activity::kArriving:
      return busy(std::string("cannot ") + what + " a guest that is still arriving",
                  "try again when it has arrived (`migrate status`)");
    case Activity::kRecording:
      return busy(std::string("cannot ") + what + " a guest whose writes are being recorded",
                  "wait for the recording (`migrate predict`) to end");
    case Activity::kCheckpointing:
      return busy(std::string("cannot ") + what + " a guest that is being written to an image",
                  "wait until that is done, or end it (Ctrl-C at the `migrate checkpoint`)");
    case Activity::kMigrating:
      return busy(std::string("cannot ") + what + " a guest that is migrating",
                  "wait for the migration to end, or `migrate cancel` it");
    case Activity::kUncertain:
    case Activity::kResolving:
      break;
  }
  return make_error(ErrorCode::kUncertain,
                    std::string("cannot ") + what + " a guest that may run at another host already")
      .advise("`migrate resolve NAME --resume` or `--release` first");
}

/// Who reads the memory of a guest to move it would take what is missing for zeros.
Status GuestHost::check_whole(const char* what) const {
  if (memory_ == Incoming::Host::Memory::kComplete) return {};
  if (memory_ == Incoming::Host::Memory::kLost) {
    return make_error(ErrorCode::kGuestLost,
                      std::string("cannot ") + what + " this guest: " + memory_reason_)
        .advise("end it (`migrate stop`), and start it anew from what it has stored");
  }
  return busy(std::string("cannot ") + what + " a guest whose memory is still arriving",
              "wait until it is here; see `migrate status` at the host it came from");
}

Status GuestHost::pause() {
  MutexLock lock(mutex_);
  end_recording();
  MIGRATE_TRY(check_here("pause"));
  return guest_.pause();
}

Status GuestHost::resume() {
  MutexLock lock(mutex_);
  end_recording();
  MIGRATE_TRY(check_here("resume"));
  if (memory_ == Incoming::Host::Memory::kLost) MIGRATE_TRY(check_whole("resume"));
  return guest_.resume();
}

Status GuestHost::stop() {
  MutexLock lock(mutex_);
  if (activity_ == Activity::kMigrating) {
    if (!outgoing_->cancel()) return too_late_to_cancel();
  } else if (activity_ == Activity::kCheckpointing) {
    static_cast<void>(checkpointer_->cancel());
  } else {
    end_recording();
    MIGRATE_TRY(check_here("stop"));
  }
  stop_wanted_ = true;
  wake_.set();
  return {};
}

HostEnd GuestHost::serve(const SignalFd& signals) {
  bool guest_ended = false;
  for (;;) {
    if (auto end = end_reached(guest_ended)) return *std::move(end);
    std::array<pollfd, 3> waits = {pollfd{signals.fd(), POLLIN, 0}, pollfd{wake_.fd(), POLLIN, 0},
                                   // It stays readable: once is enough.
                                   pollfd{guest_ended ? -1 : guest_.ended_fd(), POLLIN, 0}};
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    wake_.clear();
    if (waits[0].revents != 0) note_signal(signals.take());
    if (waits[2].revents != 0) guest_ended = true;
  }
}

void GuestHost::note_signal(int signal) {
  if (signal == 0) return;
  MutexLock lock(mutex_);
  if (activity_ == Activity::kUncertain || activity_ == Activity::kResolving) {
    log_line(LogLevel::kError,
             "the guest may be the only copy there is, or run elsewhere: kept, paused; "
             "`migrate resolve` it first");
    return;
  }
  stop_wanted_ = true;
  if (activity_ == Activity::kRecording) end_recording_.set();
  if (activity_ == Activity::kCheckpointing) static_cast<void>(checkpointer_->cancel());
  if (activity_ == Activity::kMigrating && !outgoing_->cancel()) {
    log_line(LogLevel::kWarning, "the handover is committed: waiting for its outcome");
  }
}

std::optional<HostEnd> GuestHost::end_reached(bool guest_ended) {
  MutexLock lock(mutex_);
  if (activity_ == Activity::kMigrating) {
    // A guest that ended by itself has nothing left to migrate; one that left is being confirmed.
    if (guest_ended && guest_.state() != GuestState::kLeft) outgoing_->cancel();
    return std::nullopt;
  }
  if (activity_ == Activity::kResolving) return std::nullopt;
  if (activity_ == Activity::kRecording) {
    if (guest_ended) end_recording_.set();
    return std::nullopt;
  }
  if (activity_ == Activity::kCheckpointing) {
    if (guest_ended) static_cast<void>(checkpointer_->cancel());
    return std::nullopt;
  }
  if (lost_) {
    Error error = migration_error_.value_or(
        make_error(ErrorCode::kGuestLost, "the guest was lost in the handover"));
    return HostEnd{HostEnd::Kind::kCrashed, {}, std::move(error)};
  }
  switch (guest_.state()) {
    case GuestState::kStopped:
      return HostEnd{HostEnd::Kind::kStopped, {}, {}};
    case GuestState::kLeft:
      return HostEnd{HostEnd::Kind::kLeft, request_ ? request_->target.text() : "", {}};
    case GuestState::kCrashed:
      return HostEnd{HostEnd::Kind::kCrashed, {}, guest_.failure()};
    case GuestState::kPaused:
    case GuestState::kRunning:
      break;
  }
  // What ended is looked at again when ended_fd() says so: stop() need not be done on return.
  if (activity_ == Activity::kHere && stop_wanted_) guest_.stop();
  return std::nullopt;
}

void GuestHost::on_progress(const Progress& progress) { hub_.publish(progress); }

void GuestHost::on_event(const Event& event) {
  hub_.publish(event);
  // A follower whose guest's process is killed must know whether COMMIT can have been sent: the
  // guest is not paused before everybody has heard that it will be.
  if (event.phase == Phase::kQuiesce) {
    end_announcements();
    hub_.drain(std::chrono::steady_clock::now() + kSwitchoverHeardMax);
  }
  log_line(LogLevel::kInfo, event.name + (event.detail.empty() ? "" : ": " + event.detail));
}

}  // namespace migrate::tool
