// The downtime of an idle guest beside its floor: pause, save, load, start and 1.5 round trips,
// each measured alone, in turns with whole migrations in the same run.
#include <cstdio>
#include <string>
#include <vector>

#include "bench/downtime_floor.hpp"
#include "bench/loopback_migration.hpp"
#include "bench/measuring.hpp"
#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

constexpr const char* kUsage =
    "usage: floor [--memory SIZE] [--vcpus N]... [--repeats N] [--json]\n"
    "  --memory   of the idle guest [64M]\n"
    "  --vcpus    of the guest; may be given more than once [1 and 2]\n"
    "  --repeats  of each piece and of the migration [50]\n";

struct Settings {
  LoopbackSetup setup;
  std::vector<unsigned> vcpus;
  unsigned repeats = 50;
  bool json = false;
};

struct Phases {
  Samples quiesce, final_sync, state_save, final_pages, state_load, handover, start;
};

struct Comparison {
  unsigned vcpus = 0;
  FloorPieces floor;
  Samples downtime_ms;
  Phases phases;
};

void add(Comparison& comparison, const Report& report) {
  if (!report.downtime_ms) give_up("an idle guest's migration told no downtime");
  comparison.downtime_ms.add(*report.downtime_ms);
  Phases& phases = comparison.phases;
  phases.quiesce.add(report.phases_ms.quiesce);
  phases.final_sync.add(report.phases_ms.final_sync);
  phases.state_save.add(report.phases_ms.state_save);
  phases.final_pages.add(report.phases_ms.final_pages);
  phases.state_load.add(report.phases_ms.state_load);
  phases.handover.add(report.phases_ms.handover);
  phases.start.add(report.phases_ms.start);
}

Comparison compare(const Settings& settings, unsigned vcpus) {
  Comparison comparison;
  comparison.vcpus = vcpus;
  LoopbackSetup setup = settings.setup;
  setup.vcpus = vcpus;
  // In turns, so that what else the machine does meets both alike.
  for (unsigned i = 0; i < settings.repeats; ++i) {
    measure_pieces(setup, comparison.floor);
    measure_round_trips(4, comparison.floor);
    add(comparison, migrate_over_loopback(setup).source);
  }
  return comparison;
}

void print_row(const char* name, const Samples& samples, double factor = 1) {
  std::printf("  %-32s %9.3f %9.3f\n", name, factor * samples.median(),
              factor * samples.percentile(99));
}

void print_table(const Comparison& comparison) {
  const FloorPieces& floor = comparison.floor;
  const Phases& phases = comparison.phases;
  std::printf("\n%u vCPU%s, ms %35s %9s\n", comparison.vcpus, comparison.vcpus == 1 ? "" : "s",
              "median", "p99");
  print_row("kick", floor.kick);
  print_row("pause, after the vCPUs' exit", floor.pause);
  print_row("save", floor.save);
  print_row("load", floor.load);
  print_row("start", floor.start);
  print_row("1.5 round trips", floor.round_trip, FloorPieces::kRoundTrips);
  std::printf("  %-32s %9.3f\n", "floor, the sum", floor.sum_ms());
  std::printf("  %-32s %9.3f\n\n", "floor without the kick", floor.sum_without_kick_ms());
  print_row("migration: downtime_ms", comparison.downtime_ms);
  print_row("  quiesce", phases.quiesce);
  print_row("  final_sync", phases.final_sync);
  print_row("  state_save", phases.state_save);
  print_row("  final_pages", phases.final_pages);
  print_row("  state_load", phases.state_load);
  print_row("  handover", phases.handover);
  print_row("  start", phases.start);
  const double downtime = comparison.downtime_ms.median();
  const double kick = floor.kick.median();
  std::printf(
      "\n  downtime is %.2f x the floor; like with like: %.2f x with the kick in both,"
      " %.2f x without\n",
      downtime / floor.sum_ms(), (downtime + kick) / floor.sum_ms(),
      downtime / floor.sum_without_kick_ms());
}

std::string json_of(const char* name, const Samples& samples) {
  return quoted(name) + ":{\"p50\":" + std::to_string(samples.median()) +
         ",\"p99\":" + std::to_string(samples.percentile(99)) + "}";
}

void print_json(const Settings& settings, const std::vector<Comparison>& comparisons) {
  std::printf("{\"schema\":\"migrate-bench-floor\",\"version\":1,\"host\":%s,",
              host_json().c_str());
  std::printf("\"memory_bytes\":%llu,\"repeats\":%u,\"guests\":[",
              static_cast<unsigned long long>(settings.setup.memory_bytes), settings.repeats);
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    const Comparison& comparison = comparisons[i];
    const FloorPieces& floor = comparison.floor;
    const Phases& phases = comparison.phases;
    std::printf("%s{\"vcpus\":%u,\"floor_ms\":{%s,%s,%s,%s,%s,%s,\"sum\":%f},", i == 0 ? "" : ",",
                comparison.vcpus, json_of("kick", floor.kick).c_str(),
                json_of("pause", floor.pause).c_str(), json_of("save", floor.save).c_str(),
                json_of("load", floor.load).c_str(), json_of("start", floor.start).c_str(),
                json_of("round_trip", floor.round_trip).c_str(), floor.sum_ms());
    std::printf("%s,\"phases_ms\":{%s,%s,%s,%s,%s,%s,%s},\"ratio\":%f}",
                json_of("downtime_ms", comparison.downtime_ms).c_str(),
                json_of("quiesce", phases.quiesce).c_str(),
                json_of("final_sync", phases.final_sync).c_str(),
                json_of("state_save", phases.state_save).c_str(),
                json_of("final_pages", phases.final_pages).c_str(),
                json_of("state_load", phases.state_load).c_str(),
                json_of("handover", phases.handover).c_str(),
                json_of("start", phases.start).c_str(),
                comparison.downtime_ms.median() / floor.sum_ms());
  }
  std::printf("]}\n");
}

Settings parse(Arguments arguments) {
  Settings settings;
  settings.setup.memory_bytes = 64ull << 20;
  settings.setup.guest = "idle";
  settings.setup.warm_up = std::chrono::milliseconds(50);
  while (arguments.next()) {
    if (arguments.name() == "--json") {
      settings.json = true;
    } else if (arguments.name() == "--memory") {
      settings.setup.memory_bytes = arguments.size();
    } else if (arguments.name() == "--vcpus") {
      settings.vcpus.push_back(arguments.count());
    } else if (arguments.name() == "--repeats") {
      settings.repeats = arguments.count();
    } else {
      arguments.misunderstood();
    }
  }
  if (settings.vcpus.empty()) settings.vcpus = {1, 2};
  return settings;
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  using namespace migrate::bench;
  const Settings settings = parse(Arguments(argc, argv, kUsage));
  if (!settings.json) {
    std::printf("%s; idle guest of %s, %u of each\n", host_text().c_str(),
                migrate::format_size(settings.setup.memory_bytes).c_str(), settings.repeats);
  }
  std::vector<Comparison> comparisons;
  for (const unsigned vcpus : settings.vcpus) {
    comparisons.push_back(compare(settings, vcpus));
    if (!settings.json) print_table(comparisons.back());
    std::fflush(stdout);
  }
  if (settings.json) print_json(settings, comparisons);
  return 0;
}
