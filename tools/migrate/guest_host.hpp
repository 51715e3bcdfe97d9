// GuestHost: the life of a guest in its process, from when it can be reached until it has stopped
// or left. The same for `run` and for a guest that arrived by `recv`.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/event_fd.hpp"
#include "base/mutex.hpp"
#include "event_hub.hpp"
#include "exit_code.hpp"
#include "hosted_guest.hpp"
#include "migrate/announce.hpp"
#include "migrate/checkpoint.hpp"
#include "migrate/dirty_trace.hpp"
#include "migrate/endpoint.hpp"
#include "migrate/migration.hpp"
#include "signals.hpp"
#include "tls_options.hpp"

namespace migrate::tool {

struct MigrationRequest {
  Endpoint target;
  OutgoingOptions options;
  std::shared_ptr<TlsContext> tls;  ///< What secures the connections to it; nullptr: nothing.
};

struct CheckpointRequest {
  CheckpointOptions options;  ///< With a path; a stream is `stream_path`.
  std::string stream_path;    ///< Opened to be written to in one go: a pipe, say. Empty: the path.
  bool stop = false;          ///< The guest is ended once its image is there.
};

/// The migration under way, or the last one.
struct MigrationView {
  std::uint64_t number = 0;  ///< From 1; 0 is the guest's arrival in this process.
  std::string target;        ///< HOST:PORT; empty for an arrival.
  bool running = false;
  std::optional<Progress> progress;
  std::optional<Json> report;  ///< Once it has ended.
};

/// How a guest's time in this process ended.
struct HostEnd {
  enum class Kind { kStopped, kLeft, kCrashed };
  Kind kind = Kind::kStopped;
  std::string target;          ///< Of kLeft: where to.
  std::optional<Error> error;  ///< Of kCrashed.
};

/// All methods but serve() may be called from any thread.
class GuestHost final : private Observer {
 public:
  /// `guest` and `hub` must outlive this. An arriving guest cannot be touched until arrived().
  static Result<std::unique_ptr<GuestHost>> create(HostedGuest& guest, EventHub& hub,
                                                   bool arriving = false);
  ~GuestHost();
  GuestHost(const GuestHost&) = delete;
  GuestHost& operator=(const GuestHost&) = delete;

  [[nodiscard]] GuestFacts facts() const { return guest_.facts(); }
  /// "running", "paused", "migrating", "reconnecting", "uncertain", "stopped", "left", "crashed".
  [[nodiscard]] std::string status() const MIGRATE_EXCLUDES(mutex_);
  /// "complete"; "follows", "waits" and "lost" of a guest that was started by post-copy, the latter
  /// two with why.
  [[nodiscard]] std::pair<std::string, std::string> memory() const MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] std::optional<MigrationView> migration() const MIGRATE_EXCLUDES(mutex_);
  /// kBusy while a guest that came by post-copy has lost its link: its counters may be missing.
  [[nodiscard]] Result<Json> stats() const MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] Result<ConsoleView> console() const { return guest_.console(); }
  [[nodiscard]] std::uint64_t uptime_ms() const;

  /// The guest has started here: from now on it is this process's, and may be touched.
  void arrived() MIGRATE_EXCLUDES(mutex_);
  /// How its memory is getting on, where it was started without all of it. A guest whose memory is
  /// lost is paused, for good.
  void set_memory(Incoming::Host::Memory memory, const std::string& reason)
      MIGRATE_EXCLUDES(mutex_);
  /// What its arrival looked like, for followers; comes when the source has confirmed.
  void set_arrival_report(const Json& report) MIGRATE_EXCLUDES(mutex_);

  /// What the network is told where the guest runs on here after all: after resolve(), and after a
  /// migration that has failed but cut earlier announcements short. `before_leaving` ends these,
  /// before the guest is paused to leave; true when some were still to come. Before any migration.
  struct Network {
    std::vector<AnnouncedCard> cards;
    AnnounceSchedule schedule;
    std::function<bool()> before_leaving;
  };
  void set_network(Network network) MIGRATE_EXCLUDES(mutex_);

  /// kBusy while it migrates, kUncertain while its owner is not known.
  Status pause() MIGRATE_EXCLUDES(mutex_);
  Status resume() MIGRATE_EXCLUDES(mutex_);
  /// Cancels a migration first. kBusy when that is too late: the guest is leaving anyhow.
  Status stop() MIGRATE_EXCLUDES(mutex_);

  /// Records which pages the guest writes, on the calling thread. Whatever else is asked of the
  /// guest meanwhile ends it (kBusy), and so does the other end's closing of the socket `client`
  /// (-1: nobody's).
  Result<DirtyTrace> record(TraceOptions options, int client) MIGRATE_EXCLUDES(mutex_);

  /// Writes an image, on the calling thread. An error: it did not begin; what became of it stands
  /// in the report.
  Result<CheckpointReport> checkpoint(CheckpointRequest request) MIGRATE_EXCLUDES(mutex_);
  /// kBusy when the image has its name by now, kNotFound when none is being written.
  Status cancel_checkpoint() MIGRATE_EXCLUDES(mutex_);
  /// The image since which writes are tracked; empty when they are not.
  [[nodiscard]] std::string tracking_since() const MIGRATE_EXCLUDES(mutex_);
  /// Ends that tracking. Harmless where there is none.
  Status end_tracking() MIGRATE_EXCLUDES(mutex_);

  /// Starts a migration on a thread of its own; the number it has.
  Result<std::uint64_t> start_migration(MigrationRequest request) MIGRATE_EXCLUDES(mutex_);
  /// kBusy after COMMIT, kNotFound when none is under way.
  Status cancel_migration() MIGRATE_EXCLUDES(mutex_);
  /// Ends an uncertain handover; asks the target (again), so this takes its time.
  Status resolve(bool resume, bool force) MIGRATE_EXCLUDES(mutex_);

  /// Waits until the guest has stopped, left or crashed; nothing of a migration runs any more then.
  /// Each of `signals` stops the guest: a migration is cancelled first, and waited for after
  /// COMMIT. An uncertain guest is kept: it may be the only copy.
  HostEnd serve(const SignalFd& signals) MIGRATE_EXCLUDES(mutex_);
  /// Instead, for a guest that this process hosts only to send it: waits until the migration that
  /// was started has ended; where the guest's owner is in doubt, until that is resolved. A signal
  /// cancels it.
  void serve_migration(const SignalFd& signals) MIGRATE_EXCLUDES(mutex_);

 private:
  enum class Activity : std::uint8_t {
    kArriving,
    kHere,
    kRecording,
    kCheckpointing,
    kMigrating,
    kUncertain,
    kResolving
  };

  GuestHost(HostedGuest& guest, EventHub& hub, EventFd wake, EventFd end_recording, bool arriving);

  // Observer, on the migration's thread.
  void on_progress(const Progress& progress) override;
  void on_event(const Event& event) override;

  void announce(const std::string& session) MIGRATE_REQUIRES(mutex_);
  void end_announcements() MIGRATE_EXCLUDES(mutex_);
  static Error too_late_to_cancel();
  Status check_here(const char* what) const MIGRATE_REQUIRES(mutex_);
  Status check_whole(const char* what) const MIGRATE_REQUIRES(mutex_);
  void end_recording() MIGRATE_REQUIRES(mutex_);
  Result<std::unique_ptr<SourceGuest>> begin_recording() MIGRATE_EXCLUDES(mutex_);
  bool finish_recording() MIGRATE_EXCLUDES(mutex_);
  Result<Checkpointer*> begin_checkpoint(const CheckpointRequest& request) MIGRATE_EXCLUDES(mutex_);
  void finish_checkpoint(const CheckpointRequest& request, const CheckpointReport& report)
      MIGRATE_EXCLUDES(mutex_);
  Status drop_tracking() MIGRATE_REQUIRES(mutex_);
  void finish_migration(OutgoingResult result) MIGRATE_EXCLUDES(mutex_);
  std::optional<HostEnd> end_reached(bool guest_ended) MIGRATE_EXCLUDES(mutex_);
  void note_signal(int signal) MIGRATE_EXCLUDES(mutex_);

  HostedGuest& guest_;
  EventHub& hub_;
  EventFd wake_;
  const std::chrono::steady_clock::time_point born_;

  EventFd end_recording_;

  mutable Mutex mutex_;
  CondVar recorded_;
  Activity activity_ MIGRATE_GUARDED_BY(mutex_);
  bool recording_unwanted_ MIGRATE_GUARDED_BY(mutex_) = false;  ///< Something else was asked for.
  bool recorded_paused_ MIGRATE_GUARDED_BY(mutex_) = false;     ///< The guest stood before it.
  Incoming::Host::Memory memory_ MIGRATE_GUARDED_BY(mutex_) = Incoming::Host::Memory::kComplete;
  std::string memory_reason_ MIGRATE_GUARDED_BY(mutex_);
  bool stop_wanted_ MIGRATE_GUARDED_BY(mutex_) = false;
  bool lost_ MIGRATE_GUARDED_BY(mutex_) = false;  ///< A migration ended with the guest gone.
  std::uint64_t number_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::optional<MigrationRequest> request_ MIGRATE_GUARDED_BY(mutex_);
  std::optional<Json> report_ MIGRATE_GUARDED_BY(mutex_);
  std::optional<Error> migration_error_ MIGRATE_GUARDED_BY(mutex_);
  // Made and dropped with the mutex held; the thread uses what outgoing_ points to without it.
  std::unique_ptr<Outgoing> outgoing_ MIGRATE_GUARDED_BY(mutex_);
  // Of an uncertain handover. `uncertain` uses `guest`, so it goes first.
  OutgoingResult kept_ MIGRATE_GUARDED_BY(mutex_);
  Network network_ MIGRATE_GUARDED_BY(mutex_);
  std::unique_ptr<Announcer> announcer_ MIGRATE_GUARDED_BY(mutex_);
  bool cut_short_ MIGRATE_GUARDED_BY(mutex_) = false;  ///< Announcements, by this migration.
  std::thread thread_ MIGRATE_GUARDED_BY(mutex_);
  // Of a checkpoint under way, and kept while writes are tracked since the last one. Made and
  // dropped with the mutex held; who writes an image uses what it points to without it.
  std::unique_ptr<Checkpointer> checkpointer_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate::tool
