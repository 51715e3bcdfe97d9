// Whole migrations of a real guest over loopback, beside what the same machine can do at most,
// measured in the same run: memcpy, and a pump that moves the same number of bytes through as many
// sockets with the same work on each page.
#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "bench/aead_speed.hpp"
#include "bench/link.hpp"
#include "bench/loopback_migration.hpp"
#include "bench/machine_limits.hpp"
#include "bench/measuring.hpp"
#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

constexpr const char* kUsage =
    "usage: migration [--guest WORKLOAD]... [--memory SIZE] [--vcpus N] [--paused] [--touched]\n"
    "                 [--lanes N] [--strategy S] [--bandwidth RATE] [--verify digest|full] "
    "[--compress C]\n"
    "                 [--repeats N] [--tls] [--json]\n"
    "  --guest     as `migrate run` takes it; without any: a paused guest of mixed memory, the\n"
    "              same idle, and a writer of 200 MB/s in 256 MB\n"
    "  --memory    of the guest; three times that is needed [1G]\n"
    "  --paused    the guests named stand while they move\n"
    "  --touched   no holes: every page exists, and is looked at\n"
    "  --repeats   migrations of each guest [10]\n"
    "  --tls       each migration also over TLS, in turns, beside the limit of both together\n"
    "  lanes, strategy, bandwidth, verify, compress: as `migrate send` takes them\n";

// Larger pumps than this say the same and take the memory that the guests need.
constexpr std::uint64_t kPumpBytesMax = 512ull << 20;

struct GuestChoice {
  std::string workload;
  bool paused = false;
};

struct Settings {
  std::vector<GuestChoice> guests;
  LoopbackSetup setup;
  unsigned repeats = 10;
  bool tls = false;
  bool json = false;
};

struct Limits {
  unsigned lanes = 0;
  Figure memcpy;
  Figure pump;                ///< As a standing guest's pages go.
  Figure staged_pump;         ///< As a running guest's do.
  double aes_s_per_byte = 0;  ///< Sealed and opened, on all cores. 0: not measured.
};

/// One guest's figures over all repeats.
struct Outcomes {
  GuestChoice guest;
  std::string strategy;
  std::uint64_t memory_bytes = 0;
  Samples total_ms, once_ms, wire_bytes, cpu_s, rounds, downtime_ms;
  Samples setup, pre_copy, quiesce, final_sync, state_save, final_pages, state_load, handover;
  Samples start, verify;
  Samples tls_once_ms, tls_cpu_s;
};

struct Column {
  const char* name;
  const Samples& samples;
};

std::vector<Column> phases_of(const Outcomes& outcomes) {
  return {{"setup", outcomes.setup},           {"rounds", outcomes.pre_copy},
          {"quiesce", outcomes.quiesce},       {"final_sync", outcomes.final_sync},
          {"state_save", outcomes.state_save}, {"final_pages", outcomes.final_pages},
          {"state_load", outcomes.state_load}, {"handover", outcomes.handover},
          {"start", outcomes.start},           {"verify", outcomes.verify}};
}

/// Guest memory over a median time.
double gb_per_s(const Outcomes& outcomes, const Samples& ms) {
  return ms.median() > 0 ? static_cast<double>(outcomes.memory_bytes) / 1e6 / ms.median() : 0;
}

Limits measure_limits(const Settings& settings) {
  Limits limits;
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  // The engine's own choice where the user made none.
  limits.lanes =
      settings.setup.options.lanes != 0 ? settings.setup.options.lanes : std::min(4u, cores);
  const std::uint64_t bytes = std::min(settings.setup.memory_bytes, kPumpBytesMax);
  const unsigned repeats = std::clamp(settings.repeats, 3u, 5u);
  const Memory from(bytes, 1);
  const Memory to(bytes, 0);
  const wire::Hasher hasher(wire::SessionRandom{}, wire::SessionRandom{});
  limits.memcpy = measure_memcpy(repeats, from, to);
  limits.pump = measure_pump(repeats, limits.lanes, PageWork::kHashed, from, to, hasher);
  limits.staged_pump = measure_pump(repeats, limits.lanes, PageWork::kStaged, from, to, hasher);
  if (settings.tls) {
    AeadSpeed cipher = tls_ciphers().front();
    for (unsigned i = 0; i <= repeats; ++i) measure_aead(cipher, i > 0);
    limits.aes_s_per_byte = (cipher.seal.median() + cipher.open.median()) / cores;
  }
  return limits;
}

/// All pages once: what it takes without TLS, and besides it both sides' ciphers on the cores that
/// they share here, beside what it takes with TLS.
double of_tls_limit(const Limits& limits, const Outcomes& outcomes) {
  const double cipher_ms = 1e3 * limits.aes_s_per_byte * outcomes.wire_bytes.median();
  return (outcomes.once_ms.median() + cipher_ms) / outcomes.tls_once_ms.median();
}

/// Round 0 alone takes every page once; with stop-copy all that follows set-up does.
double once_ms(const Report& report) {
  return report.rounds.empty() ? report.total_ms - report.phases_ms.setup
                               : report.rounds.front().ms;
}

void add(Outcomes& outcomes, const LoopbackRun& run) {
  const Report& report = run.source;
  outcomes.strategy = report.strategy;
  outcomes.total_ms.add(report.total_ms);
  outcomes.memory_bytes = report.guest.memory_bytes;
  outcomes.once_ms.add(once_ms(report));
  outcomes.wire_bytes.add(static_cast<double>(report.bytes.wire));
  outcomes.cpu_s.add(run.cpu_s);
  outcomes.rounds.add(static_cast<double>(report.rounds.size()));
  if (report.downtime_ms) outcomes.downtime_ms.add(*report.downtime_ms);
  const auto& phases = report.phases_ms;
  outcomes.setup.add(phases.setup);
  outcomes.pre_copy.add(phases.rounds);
  outcomes.quiesce.add(phases.quiesce);
  outcomes.final_sync.add(phases.final_sync);
  outcomes.state_save.add(phases.state_save);
  outcomes.final_pages.add(phases.final_pages);
  outcomes.state_load.add(phases.state_load);
  outcomes.handover.add(phases.handover);
  outcomes.start.add(phases.start);
  outcomes.verify.add(phases.verify);
}

Outcomes measure_guest(const Settings& settings, const GuestChoice& guest) {
  Outcomes outcomes;
  outcomes.guest = guest;
  LoopbackSetup setup = settings.setup;
  setup.guest = guest.workload;
  setup.paused = guest.paused;
  const auto loopback = make_loopback_link();
  const auto tls = make_tls_link(*loopback);
  for (unsigned i = 0; i < settings.repeats; ++i) {
    setup.link = nullptr;
    add(outcomes, migrate_over_loopback(setup));
    if (!settings.tls) continue;
    setup.link = tls.get();
    const LoopbackRun run = migrate_over_loopback(setup);
    outcomes.tls_once_ms.add(once_ms(run.source));
    outcomes.tls_cpu_s.add(run.cpu_s);
  }
  return outcomes;
}

void print_limits(const Settings& settings, const Limits& limits) {
  std::printf("%s\n%s of guest memory, %u vCPUs, %u lanes over loopback TCP, %u migrations each\n",
              host_text().c_str(), format_size(settings.setup.memory_bytes).c_str(),
              settings.setup.vcpus, limits.lanes, settings.repeats);
  std::printf("\nThis machine, in this run (GB/s, median)\n");
  for (const Figure* figure : {&limits.memcpy, &limits.pump, &limits.staged_pump}) {
    std::printf("  %-36s %8.2f\n", figure->name.c_str(), figure->gb_per_s_median);
  }
}

void print_guest(const Limits& limits, const Outcomes& outcomes) {
  const double once = gb_per_s(outcomes, outcomes.once_ms);
  std::printf("\n%s%s, %s\n", outcomes.guest.workload.c_str(),
              outcomes.guest.paused ? " (paused)" : "", outcomes.strategy.c_str());
  std::printf("  total          %9.1f ms   %.2f GB/s of guest memory\n", outcomes.total_ms.median(),
              gb_per_s(outcomes, outcomes.total_ms));
  std::printf(
      "  all pages once %9.2f GB/s %.2f x the pump, %.2f x the pump that copies first,"
      " %.2f x memcpy\n",
      once, once / limits.pump.gb_per_s_median, once / limits.staged_pump.gb_per_s_median,
      once / limits.memcpy.gb_per_s_median);
  std::printf("  wire           %9.1f MB   in %.0f rounds\n", outcomes.wire_bytes.median() / 1e6,
              outcomes.rounds.median());
  std::printf("  cpu            %9.2f s    both sides, the guest's own left out\n",
              outcomes.cpu_s.median());
  if (outcomes.downtime_ms.count() > 0) {
    std::printf("  downtime       %9.2f ms   p50, %.2f ms p99\n", outcomes.downtime_ms.median(),
                outcomes.downtime_ms.percentile(99));
  }
  if (outcomes.tls_once_ms.count() > 0) {
    std::printf("  by TLS         %9.2f GB/s all pages once, %.2f x the limit; cpu %.2f s\n",
                gb_per_s(outcomes, outcomes.tls_once_ms), of_tls_limit(limits, outcomes),
                outcomes.tls_cpu_s.median());
  }
  std::printf("  phases (ms)   ");
  for (const Column& phase : phases_of(outcomes)) {
    std::printf(" %s %.2f", phase.name, phase.samples.median());
  }
  std::printf("\n");
}

void print_json_guest(const Limits& limits, const Outcomes& outcomes) {
  std::printf("{\"guest\":%s,\"paused\":%s,\"strategy\":%s,",
              quoted(outcomes.guest.workload).c_str(), outcomes.guest.paused ? "true" : "false",
              quoted(outcomes.strategy).c_str());
  std::printf("\"total_ms\":%.3f,\"gb_per_s\":%.3f,\"gb_per_s_once\":%.3f,\"wire_bytes\":%.0f,",
              outcomes.total_ms.median(), gb_per_s(outcomes, outcomes.total_ms),
              gb_per_s(outcomes, outcomes.once_ms), outcomes.wire_bytes.median());
  std::printf("\"rounds\":%.0f,\"cpu_s\":%.3f,", outcomes.rounds.median(), outcomes.cpu_s.median());
  if (outcomes.downtime_ms.count() > 0) {
    std::printf("\"downtime_ms\":{\"p50\":%.3f,\"p99\":%.3f},", outcomes.downtime_ms.median(),
                outcomes.downtime_ms.percentile(99));
  } else {
    std::printf("\"downtime_ms\":null,");
  }
  if (outcomes.tls_once_ms.count() > 0) {
    std::printf("\"tls\":{\"gb_per_s_once\":%.3f,\"of_limit\":%.3f,\"cpu_s\":%.3f},",
                gb_per_s(outcomes, outcomes.tls_once_ms), of_tls_limit(limits, outcomes),
                outcomes.tls_cpu_s.median());
  }
  std::printf("\"phases_ms\":{");
  const char* comma = "";
  for (const Column& phase : phases_of(outcomes)) {
    std::printf("%s\"%s\":%.3f", comma, phase.name, phase.samples.median());
    comma = ",";
  }
  std::printf("}}");
}

void print_json(const Settings& settings, const Limits& limits,
                const std::vector<Outcomes>& guests) {
  std::printf("{\"schema\":\"migrate-bench-migration\",\"version\":1,\"host\":%s,",
              host_json().c_str());
  std::printf("\"memory_bytes\":%llu,\"vcpus\":%u,\"lanes\":%u,\"repeats\":%u,",
              static_cast<unsigned long long>(settings.setup.memory_bytes), settings.setup.vcpus,
              limits.lanes, settings.repeats);
  std::printf("\"limits_gb_per_s\":{\"memcpy\":%.3f,\"pump\":%.3f,\"pump_copying\":%.3f},",
              limits.memcpy.gb_per_s_median, limits.pump.gb_per_s_median,
              limits.staged_pump.gb_per_s_median);
  std::printf("\"guests\":[");
  for (std::size_t i = 0; i < guests.size(); ++i) {
    if (i > 0) std::printf(",");
    print_json_guest(limits, guests[i]);
  }
  std::printf("]}\n");
}

Settings parse(Arguments arguments) {
  Settings settings;
  bool paused = false;
  while (arguments.next()) {
    const std::string_view name = arguments.name();
    if (name == "--json") {
      settings.json = true;
    } else if (name == "--tls") {
      settings.tls = true;
    } else if (name == "--paused") {
      paused = true;
    } else if (name == "--touched") {
      settings.setup.touched = true;
    } else if (name == "--guest") {
      settings.guests.push_back({std::string(arguments.value()), false});
    } else if (name == "--memory") {
      settings.setup.memory_bytes = arguments.size();
    } else if (name == "--vcpus") {
      settings.setup.vcpus = arguments.count();
    } else if (name == "--repeats") {
      settings.repeats = arguments.count();
    } else if (name == "--lanes" || name == "--strategy" || name == "--bandwidth" ||
               name == "--verify" || name == "--compress") {
      must(set_option(settings.setup.options, name.substr(2), arguments.value()));
    } else {
      arguments.misunderstood();
    }
  }
  if (settings.guests.empty()) {
    settings.guests = {{"idle:fill=mixed", true},
                       {"idle:fill=mixed", false},
                       {"writer:rate=200M,set=256M,fill=mixed", false}};
  }
  for (GuestChoice& guest : settings.guests) guest.paused = guest.paused || paused;
  return settings;
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  using namespace migrate::bench;
  const Settings settings = parse(Arguments(argc, argv, kUsage));
  const Limits limits = measure_limits(settings);
  if (!settings.json) print_limits(settings, limits);
  std::vector<Outcomes> guests;
  for (const GuestChoice& guest : settings.guests) {
    guests.push_back(measure_guest(settings, guest));
    if (!settings.json) print_guest(limits, guests.back());
    std::fflush(stdout);
  }
  if (settings.json) print_json(settings, limits, guests);
  return 0;
}
