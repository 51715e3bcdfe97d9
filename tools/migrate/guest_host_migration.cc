#include <poll.h>

#include <array>
#include <utility>

#include "base/log.hpp"
#include "base/start_thread.hpp"
#include "guest_host.hpp"

namespace migrate::tool {

Error GuestHost::too_late_to_cancel() {
  return make_error(ErrorCode::kBusy,
                    "the handover is committed: the guest may run at the target already")
      .advise("wait for the outcome (`migrate status NAME --follow`)");
}

Result<std::uint64_t> GuestHost::start_migration(MigrationRequest request) {
  MutexLock lock(mutex_);
  end_recording();
  MIGRATE_TRY(check_here("migrate"));
  MIGRATE_TRY(check_whole("migrate"));
  if (stop_wanted_) return make_error(ErrorCode::kBusy, "the guest is being stopped");
  MIGRATE_TRY(drop_tracking());
  MIGRATE_ASSIGN(auto source, guest_.make_source());
  // The former migration's thread has nothing left to do that needs the mutex.
  if (thread_.joinable()) thread_.join();
  auto connector = secured(make_connector(request.target, request.options.sockets), request.tls);
  Observer* const observer = this;
  outgoing_ = std::make_unique<Outgoing>(std::move(source), request.options, observer);
  Status started =
      start_thread(thread_, "mig-outgoing",
                   [this, outgoing = outgoing_.get(), connector = std::move(connector)]() mutable {
                     // Not before everything here says that it is migrating.
                     { MutexLock wait(mutex_); }
                     finish_migration(outgoing->run(*connector));
                   });
  if (!started) {
    outgoing_.reset();
    return std::move(started).error();
  }
  cut_short_ = false;
  request_ = std::move(request);
  report_.reset();
  activity_ = Activity::kMigrating;
  hub_.begin(++number_);
  return number_;
}

void GuestHost::finish_migration(OutgoingResult result) {
  const Json report = to_json(result.report, host_facts());
  std::unique_ptr<Outgoing> over;
  {
    MutexLock lock(mutex_);
    over = std::move(outgoing_);
    report_ = report;
    migration_error_ = result.report.error;
    lost_ = result.outcome == Outcome::kLost;
    const bool uncertain = result.outcome == Outcome::kUncertain && result.uncertain != nullptr;
    activity_ = uncertain ? Activity::kUncertain : Activity::kHere;
    const bool stays = result.outcome == Outcome::kFailed || result.outcome == Outcome::kCancelled;
    if (stays && cut_short_) announce(result.report.session);
    if (uncertain) {
      kept_ = std::move(result);
      // Whoever wanted it stopped did not mean the only copy there may be.
      stop_wanted_ = false;
    } else {
      result.uncertain.reset();
      result.guest.reset();
    }
    // Locked still: serve() ends, and the followers' connections with it, as soon as it sees that
    // the guest has left. Nothing is waited for here.
    hub_.publish_report(report);
  }
  wake_.set();
}

Status GuestHost::cancel_migration() {
  MutexLock lock(mutex_);
  if (activity_ == Activity::kUncertain || activity_ == Activity::kResolving) {
    return make_error(ErrorCode::kUncertain, "the handover is committed and its outcome not known")
        .advise("see `migrate resolve`");
  }
  if (activity_ != Activity::kMigrating) {
    return make_error(ErrorCode::kNotFound, "no migration of this guest is under way")
        .advise("see `migrate status`");
  }
  if (!outgoing_->cancel()) return too_late_to_cancel();
  return {};
}

Status GuestHost::resolve(bool resume, bool force) {
  UncertainHandover* handover = nullptr;
  Endpoint target;
  SocketOptions sockets;
  std::shared_ptr<TlsContext> tls;
  {
    MutexLock lock(mutex_);
    if (activity_ == Activity::kResolving) {
      return make_error(ErrorCode::kBusy, "the guest is being resolved by somebody else")
          .advise("see `migrate status`");
    }
    if (activity_ != Activity::kUncertain) {
      return make_error(ErrorCode::kInvalidArgument, "this guest's owner is not in doubt")
          .advise("see `migrate status`");
    }
    activity_ = Activity::kResolving;
    handover = kept_.uncertain.get();
    target = request_->target;
    sockets = request_->options.sockets;
    tls = request_->tls;
  }
  const auto connector = secured(make_connector(target, sockets), tls);
  Status status =
      resume ? handover->resume(*connector, force) : handover->release(*connector, force);
  {
    MutexLock lock(mutex_);
    activity_ = status ? Activity::kHere : Activity::kUncertain;
    if (status) {
      if (resume) announce(kept_.uncertain->session());
      kept_.uncertain.reset();
      kept_.guest.reset();
    }
  }
  if (status)
    hub_.publish(Event{resume ? "resumed" : "released", Phase::kNone, 0, "by an operator"});
  wake_.set();
  return status;
}

void GuestHost::serve_migration(const SignalFd& signals) {
  for (;;) {
    {
      MutexLock lock(mutex_);
      if (activity_ == Activity::kHere) return;
    }
    std::array<pollfd, 2> waits = {pollfd{signals.fd(), POLLIN, 0}, pollfd{wake_.fd(), POLLIN, 0}};
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    wake_.clear();
    if (waits[0].revents == 0 || signals.take() == 0) continue;
    if (const Status cancelled = cancel_migration(); !cancelled) {
      log_line(LogLevel::kWarning, cancelled.error().to_text());
    }
  }
}

}  // namespace migrate::tool
