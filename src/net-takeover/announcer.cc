#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

#include "base/guarded.hpp"
#include "base/log.hpp"
#include "base/mutex.hpp"
#include "base/start_thread.hpp"
#include "migrate/announce.hpp"
#include "net-takeover/bridge_fdb.hpp"
#include "net-takeover/outlets.hpp"

namespace migrate {
namespace {

using std::chrono::duration;
using takeover::Outlet;

// A report is read by people; the same failure at each step says no more.
constexpr std::size_t kErrorsMax = 12;

/// Beyond the outlets, which belong to whoever sends: taken_over()'s thread the frames that are due
/// at once, then the announcer's own.
class FrameAnnouncer final : public Announcer {
 public:
  FrameAnnouncer(std::vector<Outlet> outlets, AnnounceSchedule schedule)
      : outlets_(std::move(outlets)), schedule_(std::move(schedule)) {
    for (Outlet& outlet : outlets_) {
      for (std::string& doubt : outlet.doubts) note_error(std::move(doubt));
      if (outlet.fdb_port != 0) fdb_due_.push_back(&outlet);
    }
  }
  ~FrameAnnouncer() override {
    stop();
    if (thread_.joinable()) thread_.join();
  }

  Status start() {
    return start_thread(thread_, "mig-announce", [this] { run(); });
  }

  void taken_over(const TakenOver& guest) noexcept override {
    {
      MutexLock lock(mutex_);
      MIGRATE_CHECK(!started_at_);
      if (stopped_) return;
    }
    // The thread waits for started_at_: until then the outlets are this thread's.
    std::size_t done = 0;
    if (!schedule_.at.empty() && schedule_.at.front().count() == 0) {
      send_all(guest.started_at);
      done = 1;
    }
    MutexLock lock(mutex_);
    started_at_ = guest.started_at;
    next_ = done;
    changed_.notify_all();
  }

  AnnounceReport report() const override {
    MutexLock lock(mutex_);
    return report_;
  }

  void wait(SteadyTime deadline) override {
    MutexLock lock(mutex_);
    while (!report_.over) {
      if (!changed_.wait_until(mutex_, deadline)) return;
    }
  }

  void stop() noexcept override {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

 private:
  void run() {
    std::size_t next = 0;
    SteadyTime begin{};
    {
      MutexLock lock(mutex_);
      while (!started_at_ && !stopped_) changed_.wait(mutex_);
      if (started_at_) begin = *started_at_;
      next = next_;
    }
    // What came first was the frames': a bridge's table takes a lock of the kernel's that others
    // may hold for long.
    if (next > 0) set_fdb_entries();
    for (; next < schedule_.at.size() && wait_for(begin + schedule_.at[next]); ++next) {
      send_all(begin);
      set_fdb_entries();
    }
    MutexLock lock(mutex_);
    report_.over = true;
    changed_.notify_all();
  }

  /// False when there is nothing more to do.
  bool wait_for(SteadyTime time) {
    MutexLock lock(mutex_);
    while (!stopped_) {
      if (!changed_.wait_until(mutex_, time) && !stopped_) return true;
    }
    return false;
  }

  void send_all(SteadyTime begin) noexcept {
    for (Outlet& outlet : outlets_) {
      for (const takeover::Frame& frame : outlet.frames) {
        note_sent(guarded([&] { return outlet.socket.send(frame.bytes); }), begin);
      }
    }
  }

  void note_sent(const Status& sent, SteadyTime begin) noexcept {
    const auto since = duration<double, std::milli>(std::chrono::steady_clock::now() - begin);
    MutexLock lock(mutex_);
    if (!sent) {
      ++report_.frames_failed;
      note(sent.error());
      return;
    }
    ++report_.frames_sent;
    if (!report_.first_ms) report_.first_ms = std::max(0.0, since.count());
  }

  /// Tried at each step until it works: a port may not forward yet when its guest starts.
  void set_fdb_entries() noexcept {
    std::erase_if(fdb_due_, [this](const Outlet* outlet) {
      const Status set = guarded(
          [&] { return takeover::set_fdb_entry(outlet->fdb_port, outlet->mac, outlet->vlan); });
      MutexLock lock(mutex_);
      if (!set) note(set.error());
      report_.fdb_entries += set ? 1 : 0;
      return set.has_value();
    });
  }

  void note(const Error& error) noexcept MIGRATE_REQUIRES(mutex_) {
    try {
      add_error(error.to_text());
    } catch (const std::exception&) {
      // What there is no memory to say is not said.
    }
  }
  void note_error(std::string text) {
    MutexLock lock(mutex_);
    add_error(std::move(text));
  }
  void add_error(std::string text) MIGRATE_REQUIRES(mutex_) {
    auto& errors = report_.errors;
    if (errors.size() >= kErrorsMax || std::ranges::find(errors, text) != errors.end()) return;
    log_line(LogLevel::kWarning, "announcing the guest: " + text);
    errors.push_back(std::move(text));
  }

  std::vector<Outlet> outlets_;
  std::vector<const Outlet*> fdb_due_;  // Of the thread, once it runs.
  const AnnounceSchedule schedule_;

  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::optional<SteadyTime> started_at_ MIGRATE_GUARDED_BY(mutex_);
  std::size_t next_ MIGRATE_GUARDED_BY(mutex_) = 0;
  bool stopped_ MIGRATE_GUARDED_BY(mutex_) = false;
  AnnounceReport report_ MIGRATE_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Announcer>> make_announcer(const std::vector<AnnouncedCard>& cards,
                                                  AnnounceSchedule schedule) {
  std::vector<Outlet> outlets;
  for (const AnnouncedCard& card : cards) {
    MIGRATE_ASSIGN(Outlet outlet, takeover::open_outlet(card));
    outlets.push_back(std::move(outlet));
  }
  auto announcer = std::make_unique<FrameAnnouncer>(std::move(outlets), std::move(schedule));
  MIGRATE_TRY(announcer->start());
  return std::unique_ptr<Announcer>(std::move(announcer));
}

}  // namespace migrate
