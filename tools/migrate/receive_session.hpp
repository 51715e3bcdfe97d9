// ReceiveSession: one guest that arrives, from the listening to its end on this host.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "arrival.hpp"
#include "arrival_takeover.hpp"
#include "ask_responder.hpp"
#include "base/event_fd.hpp"
#include "base/mutex.hpp"
#include "command.hpp"
#include "container_options.hpp"
#include "hosting.hpp"
#include "migrate/migration.hpp"
#include "progress_line.hpp"
#include "runtime_dir.hpp"
#include "signals.hpp"

namespace migrate::tool {

struct ReceiveOptions {
  IncomingOptions incoming;
  SocketOptions sockets;
  vmm::ArrivalConfig guest;  ///< What a virtual machine gets from this host.
  AcceptChoice accept;
  TakeoverChoice takeover;
  /// Its first connection has begun to introduce itself: without a good HELLO in time nothing
  /// comes.
  bool hello_is_due = false;
};

class ReceiveSession final : private Incoming::Host, private Observer {
 public:
  /// kUnsupported where this host cannot take what is accepted.
  static Result<std::unique_ptr<ReceiveSession>> create(RuntimeDir folder, ReceiveOptions options,
                                                        const GlobalOptions& global);
  ~ReceiveSession() override;

  /// Makes the acceptor anew.
  using Reopen = std::function<Result<std::unique_ptr<Acceptor>>()>;

  /// Takes the session from `acceptor`, prints its report, hosts the guest on. The exit code: 0
  /// once the guest has stopped or left; SIGTERM and SIGINT end it as they end `run`. When the
  /// session has ended the acceptor is dropped and `on_migration_over` called, before its hook is
  /// waited for; a source that has not confirmed by then is answered on another one.
  int run(std::unique_ptr<Acceptor> acceptor, Reopen reopen, const SignalFd& signals,
          const std::function<void()>& on_migration_over);

 private:
  ReceiveSession(RuntimeDir folder, ReceiveOptions options, const GlobalOptions& global,
                 std::unique_ptr<Arrival> arrival, EventFd wake);

  // Incoming::Host and Observer, on the migration's thread.
  Status on_described(const GuestDescription& description) override;
  Status on_ready() override;
  void on_started() override;
  void on_memory(Memory memory, const std::string& reason) override;
  void on_progress(const Progress& progress) override { line_.show(progress); }
  void on_event(const Event& event) override;

  void discarded();
  void migrate(std::unique_ptr<Acceptor> acceptor, const Reopen& reopen,
               const std::function<void()>& on_migration_over);
  void answer_late_questions(const Report& report, const Reopen& reopen);
  bool wait_for_start(const SignalFd& signals);
  [[nodiscard]] bool is_described() MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] bool is_started() MIGRATE_EXCLUDES(mutex_);
  int host(const SignalFd& signals);

  const RuntimeDir folder_;
  const ReceiveOptions options_;
  const GlobalOptions& global_;
  const std::unique_ptr<Arrival> arrival_;
  EventFd wake_;
  ProgressLine line_;  // Of the migration's thread.

  std::unique_ptr<TargetGuest> target_;  // Of a guest that has started; outlives guest_.
  std::unique_ptr<HostedGuest> guest_;
  std::unique_ptr<Hosting> hosting_;   // Handed to the main thread by started_.
  bool memory_follows_ = false;        // Of the migration's thread.
  std::vector<vmm::NetConfig> cards_;  // Of the migration's thread.
  ArrivalTakeover takeover_;
  std::unique_ptr<Incoming> incoming_;    // Keeps the journal's lock: lives as long as the guest.
  std::shared_ptr<void> waiting_memory_;  // Of a guest whose source is lost; goes before the guest.
  std::unique_ptr<AskResponder> responder_;  // Of the migration's thread, then of run().

  Mutex mutex_;
  bool described_ MIGRATE_GUARDED_BY(mutex_) = false;
  bool started_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::optional<Outcome> outcome_ MIGRATE_GUARDED_BY(mutex_);
  bool stop_wanted_ = false;     // Of the main thread.
  bool cancelled_here_ = false;  // Of the main thread.
  std::thread thread_;
};

}  // namespace migrate::tool
