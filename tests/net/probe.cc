// The probe: asks a host for echoes at a steady rate, as a client would that always wants
// something, and says how long nobody answered. docs/benchmarks.md says what its figures mean.
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <list>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.hpp"
#include "base/start_thread.hpp"
#include "migrate/options.hpp"
#include "tests/net/echo_socket.hpp"
#include "tests/net/probe_log.hpp"

namespace migrate::probe {
namespace {

constexpr Nanoseconds kSecond = 1'000'000'000;
constexpr Nanoseconds kLiveEvery = kSecond / 10;

struct Settings {
  std::vector<std::string> targets;
  std::vector<std::string> kinds{"udp", "icmp"};
  std::uint16_t port = 7;  // Of the echo protocol (RFC 862).
  unsigned rate = 1000;
  Nanoseconds duration = 0;
  Nanoseconds linger = kSecond;
  bool live = false;
};

/// One kind of echo from one target.
struct Stream {
  std::string name;
  EchoSocket socket;
  mutable Mutex mutex;
  ProbeLog log MIGRATE_GUARDED_BY(mutex);
  std::uint64_t unsent MIGRATE_GUARDED_BY(mutex) = 0;

  Stream(std::string its_name, EchoSocket its_socket)
      : name(std::move(its_name)), socket(std::move(its_socket)) {}

  void ask() {
    std::uint64_t number = 0;
    {
      const MutexLock lock(mutex);
      number = log.sent(now());
    }
    if (socket.send(number)) return;
    const MutexLock lock(mutex);
    ++unsent;
  }
  void hear() {
    while (const auto echo = socket.receive()) {
      const MutexLock lock(mutex);
      log.answered(echo->number, echo->when);
    }
  }
};

/// Sends at each multiple of the interval. Late, it leaves out what should have gone meanwhile: a
/// burst would say nothing about the time in which nothing was asked.
class Sender {
 public:
  Sender(std::list<Stream>& streams, unsigned rate)
      : streams_(streams), interval_(kSecond / rate) {}

  Status start() {
    return start_thread(thread_, "probe-send", [this] { run(); });
  }
  void stop() {
    stopping_ = true;
    thread_.join();
  }
  // After stop().
  [[nodiscard]] Nanoseconds began() const { return began_; }
  [[nodiscard]] Nanoseconds ended() const { return ended_; }
  [[nodiscard]] std::uint64_t skipped() const { return skipped_; }
  [[nodiscard]] Nanoseconds latest() const { return latest_; }

 private:
  void run() {
    ::prctl(PR_SET_TIMERSLACK, 1);
    began_ = now();
    for (Nanoseconds next = began_; !stopping_; next += interval_) {
      const timespec until{static_cast<time_t>(next / kSecond), static_cast<long>(next % kSecond)};
      while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
      }
      const Nanoseconds late = now() - next;
      latest_ = std::max(latest_, late);
      skipped_ += static_cast<std::uint64_t>(late / interval_);
      next += late / interval_ * interval_;
      for (Stream& stream : streams_) stream.ask();
    }
    ended_ = now();
  }

  std::list<Stream>& streams_;
  const Nanoseconds interval_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
  // The thread's own until it is joined.
  Nanoseconds began_ = 0;
  Nanoseconds ended_ = 0;
  Nanoseconds latest_ = 0;
  std::uint64_t skipped_ = 0;
};

/// Hears answers until a signal to stop, or `deadline`, or until `done` of all streams says so.
class Receiver {
 public:
  Receiver(std::list<Stream>& streams, int signals, bool live)
      : streams_(streams), live_(live), terminal_(live && ::isatty(STDERR_FILENO) == 1) {
    for (Stream& stream : streams_) waited_for_.push_back({stream.socket.fd(), POLLIN, 0});
    waited_for_.push_back({signals, POLLIN, 0});
  }
  ~Receiver() {
    if (terminal_) std::fputs("\n", stderr);
  }
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;

  void until_told(Nanoseconds deadline) {
    while (now() < deadline && !wait(deadline)) {
    }
  }
  /// What is still on its way.
  void linger(Nanoseconds deadline) {
    waited_for_.back().fd = -1;
    while (now() < deadline && !all_answered()) wait(deadline);
  }

 private:
  /// True when told to stop.
  bool wait(Nanoseconds deadline) {
    const Nanoseconds until = live_ ? std::min(deadline, next_live_) : deadline;
    const Nanoseconds left = std::clamp<Nanoseconds>(until - now(), 0, kSecond);
    const timespec timeout{static_cast<time_t>(left / kSecond), static_cast<long>(left % kSecond)};
    ::ppoll(waited_for_.data(), waited_for_.size(), &timeout, nullptr);
    for (Stream& stream : streams_) stream.hear();
    if (live_ && now() >= next_live_) show();
    return (waited_for_.back().revents & POLLIN) != 0;
  }
  [[nodiscard]] bool all_answered() const {
    return std::all_of(streams_.begin(), streams_.end(), [](const Stream& stream) {
      const MutexLock lock(stream.mutex);
      return stream.log.all_answered();
    });
  }
  void show() {
    next_live_ = now() + kLiveEvery;
    std::string line;
    for (const Stream& stream : streams_) {
      const MutexLock lock(stream.mutex);
      const Glance glance = stream.log.glance(now());
      char text[160];
      std::snprintf(text, sizeof text, "%s%s: %llu answered, %llu lost, longest gap %.1f ms",
                    line.empty() ? "" : "   ", stream.name.c_str(),
                    static_cast<unsigned long long>(glance.answered),
                    static_cast<unsigned long long>(glance.lost),
                    static_cast<double>(glance.gap) / 1e6);
      line += text;
    }
    std::fputs((terminal_ ? "\r" + line + "\x1b[K" : line + "\n").c_str(), stderr);
  }

  std::list<Stream>& streams_;
  const bool live_;
  const bool terminal_;
  std::vector<pollfd> waited_for_;
  Nanoseconds next_live_ = 0;
};

double to_ms(Nanoseconds ns) { return static_cast<double>(ns) / 1e6; }

nlohmann::ordered_json to_json(const Stream& stream, const Sender& sender) {
  const MutexLock lock(stream.mutex);
  const Figures figures = stream.log.figures(sender.ended());
  const auto since_start = [&](const Stretch& stretch) {
    return stretch.lasted == 0 ? 0 : to_ms(stretch.began - sender.began());
  };
  return {
      {"sent", figures.sent},
      {"answered", figures.answered},
      {"lost", figures.lost},
      {"reordered", figures.reordered},
      {"duplicated", figures.duplicated},
      {"unsent", stream.unsent},
      {"gap_ms", to_ms(figures.gap.lasted)},
      {"gap_began_ms", since_start(figures.gap)},
      {"lost_in_a_row", figures.lost_in_a_row},
      {"lost_ms", to_ms(figures.lost_run.lasted)},
      {"lost_began_ms", since_start(figures.lost_run)},
      {"rtt_ms",
       {{"p50", to_ms(figures.rtt_p50)},
        {"p99", to_ms(figures.rtt_p99)},
        {"max", to_ms(figures.rtt_max)}}},
  };
}

Result<std::list<Stream>> open_streams(const Settings& settings) {
  std::list<Stream> streams;
  for (const std::string& target : settings.targets) {
    const bool ipv6 = target.find(':') != std::string::npos;
    for (const std::string& kind : settings.kinds) {
      const EchoKind echo = kind == "udp" ? EchoKind::kUdp : EchoKind::kIcmp;
      MIGRATE_ASSIGN(EchoSocket socket, EchoSocket::open(echo, target, settings.port));
      streams.emplace_back(kind + (ipv6 ? "6" : ""), std::move(socket));
    }
  }
  return streams;
}

/// Signals that end the run, from now on to be read; no thread is interrupted by them.
Result<Fd> take_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  Fd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return make_errno_error(ErrorCode::kIo, errno, "cannot wait for signals");
  return fd;
}

Status probe(const Settings& settings) {
  MIGRATE_ASSIGN(const Fd signals, take_signals());
  MIGRATE_ASSIGN(std::list<Stream> streams, open_streams(settings));
  Sender sender(streams, settings.rate);
  const auto date = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::system_clock::now().time_since_epoch());
  MIGRATE_TRY(sender.start());
  {
    Receiver receiver(streams, signals.get(), settings.live);
    receiver.until_told(settings.duration == 0 ? INT64_MAX : now() + settings.duration);
    sender.stop();
    receiver.linger(now() + settings.linger);
  }
  nlohmann::ordered_json kinds;
  for (const Stream& stream : streams) kinds[stream.name] = to_json(stream, sender);
  const nlohmann::ordered_json report{
      {"schema", "migrate-probe/1"},
      {"started_unix_ms", date.count()},
      {"duration_ms", to_ms(sender.ended() - sender.began())},
      {"rate_hz", settings.rate},
      {"skipped", sender.skipped()},
      {"latest_ms", to_ms(sender.latest())},
      {"kinds", kinds},
  };
  std::puts(report.dump().c_str());
  return {};
}

void add_time(CLI::App& app, const char* name, Nanoseconds& into, const char* what) {
  app.add_option_function<std::string>(
         name,
         [&into, name](const std::string& text) {
           const auto time = parse_duration(text);
           if (!time) throw CLI::ValidationError(name, time.error().to_text());
           into = std::chrono::nanoseconds(*time).count();
         },
         what)
      ->type_name("TIME");
}

int run(int argc, char** argv) {
  Settings settings;
  CLI::App app(
      "Asks TARGETs for echoes at a steady rate, until SIGINT or SIGTERM or for a time, and prints "
      "one JSON object: per kind what was lost and how long nobody answered.");
  app.add_option("target", settings.targets, "Numeric IPv4 or IPv6 address, at most one of each")
      ->required()
      ->expected(1, 2);
  app.add_option("--kind", settings.kinds, "udp, icmp or both (default); icmp needs root")
      ->delimiter(',')
      ->check(CLI::IsMember({"udp", "icmp"}));
  app.add_option("--port", settings.port, "For UDP (default: 7, echo)");
  app.add_option("--rate", settings.rate, "Probes of each kind a second (default: 1000)")
      ->check(CLI::Range(1, 100000));
  add_time(app, "--duration", settings.duration,
           "How long to ask, such as 5s (default: until told)");
  add_time(app, "--linger", settings.linger, "How long to wait for the last answers (default: 1s)");
  app.add_flag("--live", settings.live, "A line on standard error, ten times a second");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (const Status done = probe(settings); !done) {
    std::fprintf(stderr, "probe: %s\n", done.error().to_text().c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace migrate::probe

int main(int argc, char** argv) { return migrate::probe::run(argc, argv); }
