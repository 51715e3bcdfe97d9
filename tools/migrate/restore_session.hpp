// RestoreSession: one guest from an image, from its opening to the guest's end on this host.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "arrival_hooks.hpp"
#include "arrival_takeover.hpp"
#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "base/mutex.hpp"
#include "command.hpp"
#include "hosting.hpp"
#include "migrate/restore.hpp"
#include "progress_line.hpp"
#include "runtime_dir.hpp"
#include "signals.hpp"
#include "vmm_guest.hpp"

namespace migrate::tool {

struct RestoreChoice {
  RestoreOptions options;
  vmm::ArrivalConfig guest;  ///< What it gets from this host.
  AnnounceChoice announce;
};

class RestoreSession final : private Restore::Host, private Observer {
 public:
  /// kUnsupported without a usable /dev/kvm.
  static Result<std::unique_ptr<RestoreSession>> create(RuntimeDir folder, RestoreChoice choice,
                                                        const GlobalOptions& global);
  ~RestoreSession() override;

  /// Restores the guest, hosts it, and tells how its restore went once its memory is all here.
  /// `on_started` is called when it answers, from this thread; an error ends all. The exit code.
  int run(const SignalFd& signals,
          const std::function<Status(const std::string& name)>& on_started);

 private:
  RestoreSession(RuntimeDir folder, RestoreChoice choice, const GlobalOptions& global, Fd kvm,
                 EventFd wake);

  // Restore::Host and Observer, on the restore's thread.
  Status open(const GuestDescription& description) override;
  void started() override;
  void on_memory(Memory memory, const std::string& reason) override;
  void on_progress(const Progress& progress) override { line_.show(progress); }
  void on_event(const Event& event) override;

  void restore() MIGRATE_EXCLUDES(mutex_);
  bool wait_for_start(const SignalFd& signals) MIGRATE_EXCLUDES(mutex_);
  int host(const SignalFd& signals);

  const RuntimeDir folder_;
  const RestoreChoice choice_;
  const GlobalOptions& global_;
  Fd kvm_;
  EventFd wake_;
  ProgressLine line_;  // Of the restore's thread.

  std::unique_ptr<VmmGuest> guest_;
  std::unique_ptr<Hosting> hosting_;  // Handed to the main thread by started_.
  std::unique_ptr<ArrivalHooks> hooks_;
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
