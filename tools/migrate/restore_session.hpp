// RestoreSession: one guest from an image, from its opening to the guest's end on this host.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "arrival.hpp"
#include "arrival_takeover.hpp"
#include "base/event_fd.hpp"
#include "base/mutex.hpp"
#include "command.hpp"
#include "container_options.hpp"
#include "hosting.hpp"
#include "migrate/restore.hpp"
#include "progress_line.hpp"
#include "runtime_dir.hpp"
#include "signals.hpp"

namespace migrate::tool {

struct RestoreChoice {
  RestoreOptions options;
  vmm::ArrivalConfig guest;  ///< What a virtual machine gets from this host.
  AcceptChoice accept;
  AnnounceChoice announce;
};

class RestoreSession final : private Restore::Host, private Observer {
 public:
  /// kUnsupported where this host cannot take such guests.
  static Result<std::unique_ptr<RestoreSession>> create(RuntimeDir folder, RestoreChoice choice,
                                                        const GlobalOptions& global);
  ~RestoreSession() override;

  /// Restores the guest, hosts it, and tells how its restore went once its memory is all here.
  /// `on_started` is called when it answers, from this thread; an error ends all. The exit code.
  int run(const SignalFd& signals,
          const std::function<Status(const std::string& name)>& on_started);

 private:
  RestoreSession(RuntimeDir folder, RestoreChoice choice, const GlobalOptions& global,
                 std::unique_ptr<Arrival> arrival, EventFd wake);

  // Restore::Host and Observer, on the restore's thread.
  Status open(const GuestDescription& description) override;
  void started() override;
  void on_memory(Memory memory, const std::string& reason) override;
  void on_progress(const Progress& progress) override { line_.show(progress); }
  void on_event(const Event& event) override;

  void restore() MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] bool is_started() MIGRATE_EXCLUDES(mutex_);
  bool wait_for_start(const SignalFd& signals) MIGRATE_EXCLUDES(mutex_);
  int host(const SignalFd& signals);

  const RuntimeDir folder_;
  const RestoreChoice choice_;
  const GlobalOptions& global_;
  const std::unique_ptr<Arrival> arrival_;
  EventFd wake_;
  ProgressLine line_;  // Of the restore's thread.

  std::unique_ptr<TargetGuest> target_;  // Of a guest that has started; outlives guest_.
  std::unique_ptr<HostedGuest> guest_;
  std::unique_ptr<Hosting> hosting_;  // Handed to the main thread by started_.
  bool memory_follows_ = false;       // Of the restore's thread.
  ArrivalTakeover takeover_;
  std::unique_ptr<Restore> restore_;
  std::shared_ptr<void> waiting_memory_;  // Goes before the guest.

  Mutex mutex_;
  bool started_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<Outcome> outcome_ MIGRATE_GUARDED_BY(mutex_);
  std::optional<Error> error_ MIGRATE_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace migrate::tool
