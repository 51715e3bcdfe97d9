// TLS beside what it is made of: plain sockets and one core's AES. The same batches go through as
// many lanes with and without TLS, in turns with sealing and opening records that stay in the
// cache, and the program says how near TLS comes to the limit that the two give together.
#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/aead_speed.hpp"
#include "bench/link.hpp"
#include "bench/machine_limits.hpp"
#include "bench/measuring.hpp"
#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

constexpr const char* kUsage =
    "usage: tls [--memory SIZE] [--lanes N]... [--repeats N] [--json]\n"
    "  --memory   moved in each run, twice that is needed [512M]\n"
    "  --lanes    connections to measure with; may be given more than once [1 and 2]\n"
    "  --repeats  runs of each, in turns, after one to warm up [7]\n";

constexpr std::size_t kBatchBytes = 1 << 20;
constexpr std::chrono::seconds kIdleMax{30};

struct Settings {
  std::uint64_t memory_bytes = 512ull << 20;
  std::vector<unsigned> lanes;
  unsigned repeats = 7;
  bool json = false;
};

/// Seconds a byte: of the clock, and of each side's threads.
struct Cost {
  Samples wall, source, target;
  [[nodiscard]] double gb_per_s() const { return 1e-9 / wall.median(); }
};

double thread_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Lane {
  std::unique_ptr<Channel> source;
  std::unique_ptr<Channel> target;
  std::size_t first = 0;
  std::size_t pages = 0;
  bool tls = false;
  double source_seconds = 0;
  double target_seconds = 0;
};

/// Pages `first` to `first + count` as the engine hands them over: each a part of its own.
void list_pages(const Memory& memory, std::size_t first, std::size_t count,
                std::vector<iovec>& parts) {
  parts.clear();
  for (std::size_t i = 0; i < count; ++i) parts.push_back({memory.page(first + i), kPageSize});
}

void run_source(Lane& lane, const Memory& from) {
  const double before = thread_seconds();
  std::vector<iovec> parts;
  for (std::size_t at = 0; at < lane.pages; at += kBatchBytes / kPageSize) {
    list_pages(from, lane.first + at, std::min(kBatchBytes / kPageSize, lane.pages - at), parts);
    must(lane.source->send(parts, kIdleMax));
  }
  lane.source_seconds = thread_seconds() - before;
}

void run_target(Lane& lane, const Memory& to) {
  const double before = thread_seconds();
  std::vector<iovec> parts;
  for (std::size_t at = 0; at < lane.pages; at += kBatchBytes / kPageSize) {
    list_pages(to, lane.first + at, std::min(kBatchBytes / kPageSize, lane.pages - at), parts);
    receive_whole(*lane.target, parts);
  }
  lane.target_seconds = thread_seconds() - before;
}

std::vector<Lane> open_lanes(unsigned count, std::size_t pages, const Link& link, bool tls) {
  const Ends ends = link.open();
  std::vector<Lane> lanes(count);
  for (unsigned i = 0; i < count; ++i) {
    Lane& lane = lanes[i];
    std::jthread accepting([&] {
      lane.target = must(ends.acceptor->accept(kIdleMax));
      std::byte byte{};
      iovec part{&byte, 1};
      if (must(lane.target->receive({&part, 1}, kIdleMax)) != 1) give_up("a lane was closed");
    });
    lane.source = must(ends.connector->connect(kIdleMax));
    std::byte byte{};
    const iovec part{&byte, 1};
    must(lane.source->send({&part, 1}, kIdleMax));
    lane.tls = tls;
    lane.first = pages * i / count;
    lane.pages = pages * (i + 1) / count - lane.first;
  }
  return lanes;
}

/// For profilers.
void name_thread(std::jthread& thread, const char* name) {
  ::pthread_setname_np(thread.native_handle(), name);
}

/// One run; nothing is kept of the one that warms up.
void pump(std::vector<Lane>& lanes, const Memory& from, const Memory& to, Cost* cost) {
  const auto start = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> threads;
    for (Lane& lane : lanes) {
      threads.emplace_back([&] { run_target(lane, to); });
      name_thread(threads.back(), lane.tls ? "tls-target" : "target");
      threads.emplace_back([&] { run_source(lane, from); });
      name_thread(threads.back(), lane.tls ? "tls-source" : "source");
    }
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  if (cost == nullptr) return;
  const auto bytes = static_cast<double>(from.bytes());
  double source = 0;
  double target = 0;
  for (const Lane& lane : lanes) {
    source += lane.source_seconds;
    target += lane.target_seconds;
  }
  cost->wall.add(took.count() / bytes);
  cost->source.add(source / bytes);
  cost->target.add(target / bytes);
}

struct LaneFigures {
  unsigned lanes = 0;
  Cost plain, tls;
};

struct Figures {
  std::vector<AeadSpeed> ciphers;  ///< The first is the one that TLS uses here.
  std::vector<LaneFigures> lanes;
};

/// What the plain sockets and the cipher can do at most together, in GB/s. A byte costs a side what
/// the socket costs it and what the cipher costs it. With one lane each side has one thread, so the
/// dearer side sets the pace; beyond that the cores do, which both sides share here.
double composed_limit(const LaneFigures& figures, const AeadSpeed& cipher) {
  const double source = figures.plain.source.median() + cipher.seal.median();
  const double target = figures.plain.target.median() + cipher.open.median();
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const double by_threads = figures.lanes / std::max(source, target);
  const double by_cores = cores / (source + target);
  return 1e-9 * std::min(by_threads, by_cores);
}

/// The same in processor time, which a busy machine disturbs less: what the parts cost both sides,
/// over what TLS costs them. Sides are not told apart: on loopback the kernel does part of one's
/// work in the other's time.
double composed_cpu(const LaneFigures& figures, const AeadSpeed& cipher) {
  const double parts = figures.plain.source.median() + figures.plain.target.median() +
                       cipher.seal.median() + cipher.open.median();
  return parts / (figures.tls.source.median() + figures.tls.target.median());
}

Figures measure_all(const Settings& settings) {
  const Memory from(settings.memory_bytes, 1);
  const Memory to(settings.memory_bytes, 0);
  const auto loopback = make_loopback_link();
  const auto secured = make_tls_link(*loopback);
  Figures figures;
  figures.ciphers = tls_ciphers();
  figures.lanes.resize(settings.lanes.size());
  for (std::size_t i = 0; i < settings.lanes.size(); ++i) {
    figures.lanes[i].lanes = settings.lanes[i];
  }
  for (unsigned run = 0; run <= settings.repeats; ++run) {
    for (AeadSpeed& cipher : figures.ciphers) measure_aead(cipher, run > 0);
    for (LaneFigures& lanes : figures.lanes) {
      for (const bool tls : {false, true}) {
        Cost& cost = tls ? lanes.tls : lanes.plain;
        auto opened = open_lanes(lanes.lanes, from.pages(), tls ? *secured : *loopback, tls);
        pump(opened, from, to, run > 0 ? &cost : nullptr);
      }
    }
  }
  if (std::memcmp(from.page(0), to.page(0), from.bytes()) != 0) give_up("memory arrived changed");
  return figures;
}

void print_table(const Settings& settings, const Figures& figures) {
  std::printf("%s; %s a run, medians of %u in turns\n\n", host_text().c_str(),
              format_size(settings.memory_bytes).c_str(), settings.repeats);
  std::printf("%-24s %12s %12s\n", "one core, GB/s", "seal", "open");
  for (const AeadSpeed& cipher : figures.ciphers) {
    std::printf("%-24s %12.2f %12.2f\n", cipher.name, 1e-9 / cipher.seal.median(),
                1e-9 / cipher.open.median());
  }
  std::printf("\n%5s %10s %10s %10s %8s %8s   %s\n", "lanes", "plain", "TLS", "limit", "of it",
              "by cpu", "ns a KiB, source and target: plain, TLS");
  for (const LaneFigures& lanes : figures.lanes) {
    const double limit = composed_limit(lanes, figures.ciphers.front());
    std::printf("%5u %10.2f %10.2f %10.2f %8.2f %8.2f   %.0f + %.0f, %.0f + %.0f\n", lanes.lanes,
                lanes.plain.gb_per_s(), lanes.tls.gb_per_s(), limit, lanes.tls.gb_per_s() / limit,
                composed_cpu(lanes, figures.ciphers.front()), lanes.plain.source.median() * 1024e9,
                lanes.plain.target.median() * 1024e9, lanes.tls.source.median() * 1024e9,
                lanes.tls.target.median() * 1024e9);
  }
}

void print_cost(const char* name, const Cost& cost) {
  std::printf(
      "\"%s\":{\"gb_per_s\":%.3f,\"source_cpu_s_per_gb\":%.4f,\"target_cpu_s_per_gb\":%.4f},", name,
      cost.gb_per_s(), cost.source.median() * 1e9, cost.target.median() * 1e9);
}

void print_json(const Settings& settings, const Figures& figures) {
  std::printf("{\"schema\":\"migrate-bench-tls\",\"version\":1,\"host\":%s,", host_json().c_str());
  std::printf("\"memory_bytes\":%llu,\"repeats\":%u,\"ciphers\":[",
              static_cast<unsigned long long>(settings.memory_bytes), settings.repeats);
  const char* comma = "";
  for (const AeadSpeed& cipher : figures.ciphers) {
    std::printf("%s{\"name\":\"%s\",\"seal_gb_per_s\":%.3f,\"open_gb_per_s\":%.3f}", comma,
                cipher.name, 1e-9 / cipher.seal.median(), 1e-9 / cipher.open.median());
    comma = ",";
  }
  std::printf("],\"pumps\":[");
  comma = "";
  for (const LaneFigures& lanes : figures.lanes) {
    const double limit = composed_limit(lanes, figures.ciphers.front());
    std::printf("%s{\"lanes\":%u,", comma, lanes.lanes);
    print_cost("plain", lanes.plain);
    print_cost("tls", lanes.tls);
    std::printf("\"limit_gb_per_s\":%.3f,\"of_limit\":%.3f,\"of_limit_by_cpu\":%.3f}", limit,
                lanes.tls.gb_per_s() / limit, composed_cpu(lanes, figures.ciphers.front()));
    comma = ",";
  }
  std::printf("]}\n");
}

Settings parse(Arguments arguments) {
  Settings settings;
  while (arguments.next()) {
    if (arguments.name() == "--json") {
      settings.json = true;
    } else if (arguments.name() == "--memory") {
      settings.memory_bytes = arguments.size();
    } else if (arguments.name() == "--lanes") {
      settings.lanes.push_back(arguments.count());
    } else if (arguments.name() == "--repeats") {
      settings.repeats = arguments.count();
    } else {
      arguments.misunderstood();
    }
  }
  if (settings.lanes.empty()) settings.lanes = {1, 2};
  return settings;
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  using namespace migrate::bench;
  const Settings settings = parse(Arguments(argc, argv, kUsage));
  const Figures figures = measure_all(settings);
  settings.json ? print_json(settings, figures) : print_table(settings, figures);
  return 0;
}
