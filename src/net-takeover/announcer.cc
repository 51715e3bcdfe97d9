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

/// An outlet, and what has become of it.
struct Way {
  Outlet outlet;
  bool lost = false;     ///< Its interface went; one of the same name may be there.
  bool counted = false;  ///< Its entry in the bridge's table.
};

/// Beyond the ways, which belong to whoever sends: taken_over()'s thread the frames that are due at
/// once, then the announcer's own.
class FrameAnnouncer final : public Announcer {
 public:
  FrameAnnouncer(std::vector<Way> ways, const std::vector<Error>& failures,
                 AnnounceSchedule schedule)
      : ways_(std::move(ways)), schedule_(std::move(schedule)) {
    for (const Error& failure : failures) note_error(failure.to_text());
    for (Way& way : ways_) {
      for (std::string& doubt : way.outlet.doubts) note_error(std::move(doubt));
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
    // The thread waits for started_at_: until then the ways are this thread's.
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
    // What came first was the frames': what asks the kernel for an interface, or sets a bridge's
    // table, takes a lock of the kernel's that others may hold for long.
    if (next > 0) finish_step(begin);
    for (; next < schedule_.at.size() && wait_for(begin + schedule_.at[next]); ++next) {
      send_all(begin);
      finish_step(begin);
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

  bool is_stopped() const {
    MutexLock lock(mutex_);
    return stopped_;
  }

  void send_all(SteadyTime begin) noexcept {
    for (Way& way : ways_) {
      for (const takeover::Frame& frame : way.outlet.frames) {
        const Status sent = guarded([&] { return way.outlet.socket.send(frame.bytes); });
        way.lost = !sent && sent.error().code == ErrorCode::kNotFound;
        if (way.lost) break;  // Tried again as a whole.
        note_sent(sent, begin);
      }
    }
  }

  void finish_step(SteadyTime begin) noexcept {
    for (Way& way : ways_) {
      if (is_stopped()) return;
      if (way.lost) send_anew(way, begin);
      if (way.outlet.fdb_port != 0) set_fdb_entry(way);
    }
  }

  /// By the interface that has the name now: a bridge may have been made anew since it was opened.
  void send_anew(Way& way, SteadyTime begin) noexcept {
    const Status opened = open_anew(way);
    for (const takeover::Frame& frame : way.outlet.frames) {
      if (opened) {
        note_sent(guarded([&] { return way.outlet.socket.send(frame.bytes); }), begin);
      } else {
        note_sent(opened, begin);
      }
    }
    way.lost = false;
  }

  static Status open_anew(Way& way) noexcept {
    return guarded([&way]() -> Status {
      MIGRATE_ASSIGN(way.outlet, takeover::open_outlet(way.outlet.card));
      return {};
    });
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

  /// At each step, as the frames: the port may not forward yet when its guest starts, and a late
  /// frame of the guest's from its source makes the bridge learn the way there again.
  void set_fdb_entry(Way& way) noexcept {
    const auto set = [&way] {
      const Outlet& outlet = way.outlet;
      return takeover::set_fdb_entry(outlet.fdb_port, outlet.card.mac, outlet.card.vlan);
    };
    Status done = guarded(set);
    if (!done && done.error().code == ErrorCode::kNotFound && open_anew(way)) done = guarded(set);
    MutexLock lock(mutex_);
    if (!done) {
      note(done.error());
    } else if (!way.counted) {
      way.counted = true;
      ++report_.fdb_entries;
    }
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

  std::vector<Way> ways_;
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
  std::vector<Way> ways;
  std::vector<Error> failures;
  for (const AnnouncedCard& card : cards) {
    if (auto outlet = takeover::open_outlet(card)) {
      ways.push_back({*std::move(outlet)});
    } else {
      failures.push_back(std::move(outlet).error());
    }
  }
  if (ways.empty() && !failures.empty()) return failures.front();
  auto announcer = std::make_unique<FrameAnnouncer>(std::move(ways), failures, std::move(schedule));
  MIGRATE_TRY(announcer->start());
  return std::unique_ptr<Announcer>(std::move(announcer));
}

}  // namespace migrate
