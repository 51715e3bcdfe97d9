// What this machine can do at most: copying, scanning and hashing memory, and moving scattered
// pages through loopback TCP, with and without what a migration does to each page. Whole migrations
// are compared with these figures.
#include <cstdio>
#include <string>
#include <vector>

#include "bench/machine_limits.hpp"
#include "bench/measuring.hpp"
#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

constexpr const char* kUsage =
    "usage: pump [--memory SIZE] [--lanes N]... [--repeats N] [--io] [--json]\n"
    "  --memory   moved in each run, twice that is needed [512M]\n"
    "  --lanes    connections to measure with; may be given more than once [1 and 2]\n"
    "  --repeats  runs of each, after one to warm up [3]\n"
    "  --io       only the pump, by each way to move bytes, in turns\n";

struct Settings {
  std::uint64_t memory_bytes = 512ull << 20;
  std::vector<unsigned> lanes;
  unsigned repeats = 3;
  bool io = false;
  bool json = false;
};

std::vector<PumpMeans> all_means() {
  std::vector<PumpMeans> means;
  for (const SocketIo io : {SocketIo::kPoll, SocketIo::kUring}) {
    for (const bool zero_copy : {false, true}) {
      PumpMeans each;
      each.name = ", " + std::string(to_string(io)) + (zero_copy ? ", zero-copy" : "");
      each.sockets.io = io;
      each.sockets.zero_copy = zero_copy;
      means.push_back(std::move(each));
    }
  }
  return means;
}

std::vector<Figure> measure_means(const Settings& settings) {
  const wire::Hasher hasher(wire::SessionRandom{}, wire::SessionRandom{});
  const Memory from(settings.memory_bytes, 1);
  const Memory to(settings.memory_bytes, 0);
  std::vector<Figure> figures;
  for (const unsigned lanes : settings.lanes) {
    for (Figure& figure :
         measure_pumps(settings.repeats, lanes, PageWork::kNone, all_means(), from, to, hasher)) {
      figures.push_back(std::move(figure));
    }
  }
  return figures;
}

std::vector<Figure> measure_all(const Settings& settings) {
  const wire::Hasher hasher(wire::SessionRandom{}, wire::SessionRandom{});
  const Memory from(settings.memory_bytes, 1);
  const Memory to(settings.memory_bytes, 0);
  std::vector<Figure> figures;
  figures.push_back(measure_memcpy(settings.repeats, from, to));
  figures.push_back(measure_zero_scan(settings.repeats, settings.memory_bytes));
  figures.push_back(measure_hash(settings.repeats, from, hasher));
  for (const unsigned lanes : settings.lanes) {
    for (const PageWork work : {PageWork::kNone, PageWork::kHashed, PageWork::kStaged}) {
      figures.push_back(measure_pump(settings.repeats, lanes, work, from, to, hasher));
    }
  }
  return figures;
}

void print_table(const Settings& settings, const std::vector<Figure>& figures) {
  std::printf("%s; %s a run, median of %u\n\n", host_text().c_str(),
              format_size(settings.memory_bytes).c_str(), settings.repeats);
  std::printf("%-44s %10s %10s %14s\n", "", "GB/s", "best", "cpu s per GB");
  for (const Figure& figure : figures) {
    std::printf("%-44s %10.2f %10.2f %14.2f\n", figure.name.c_str(), figure.gb_per_s_median,
                figure.gb_per_s_best, figure.cpu_s_per_gb);
  }
}

void print_json(const Settings& settings, const std::vector<Figure>& figures) {
  std::printf("{\"schema\":\"migrate-pump\",\"version\":1,\"host\":%s,", host_json().c_str());
  std::printf("\"memory_bytes\":%llu,\"repeats\":%u,\"figures\":[",
              static_cast<unsigned long long>(settings.memory_bytes), settings.repeats);
  for (std::size_t i = 0; i < figures.size(); ++i) {
    const Figure& figure = figures[i];
    std::printf("%s{\"name\":%s,\"gb_per_s\":%.3f,\"gb_per_s_best\":%.3f,\"cpu_s_per_gb\":%.3f}",
                i == 0 ? "" : ",", quoted(figure.name).c_str(), figure.gb_per_s_median,
                figure.gb_per_s_best, figure.cpu_s_per_gb);
  }
  std::printf("]}\n");
}

Settings parse(Arguments arguments) {
  Settings settings;
  while (arguments.next()) {
    if (arguments.name() == "--json") {
      settings.json = true;
    } else if (arguments.name() == "--io") {
      settings.io = true;
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
  const std::vector<Figure> figures = settings.io ? measure_means(settings) : measure_all(settings);
  settings.json ? print_json(settings, figures) : print_table(settings, figures);
  return 0;
}
