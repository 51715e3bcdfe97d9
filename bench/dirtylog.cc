// What each dirty tracker costs: arming, collecting, looking again (peek), clearing (re-arming),
// the writer's loss and the memory, beside the kernel's bare calls in the same process.
#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/measuring.hpp"
#include "bench/tracker_measurement.hpp"
#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

constexpr const char* kUsage =
    "usage: dirtylog [--sizes 1G,8G] [--quick] [--only TRACKER] [--json]\n"
    "  --sizes LIST    memory that is tracked\n"
    "  --quick         1 GiB, and each thing once or twice\n"
    "  --only TRACKER  those whose name contains it\n"
    "  --json          one JSON object instead of the table\n"
    "The default takes about six minutes and a little more memory than the largest size.\n";

// 0, 1, 25 and 100 % of the pages.
constexpr std::uint64_t kSteps[] = {0, 100, 4, 1};

struct Options {
  std::vector<std::uint64_t> sizes = {std::uint64_t{1} << 30, std::uint64_t{8} << 30};
  bool quick = false;
  std::string only;
  bool json = false;
};

struct Row {
  std::string tracker;
  std::string memory;
  std::string bare;
  std::uint64_t bytes = 0;
  ArmingFigures arming;
  DirtyFigures dirty;
};

struct Skipped {
  std::string tracker;
  std::string why;
};

std::vector<std::uint64_t> sizes_of(std::string_view list, const Arguments& arguments) {
  std::vector<std::uint64_t> sizes;
  while (!list.empty()) {
    const std::string_view one = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), one.size() + 1));
    const auto bytes = parse_size(one);
    // Below, there is no room for the guest's program and two huge pages.
    if (!bytes || *bytes < (std::uint64_t{16} << 20)) arguments.misunderstood();
    sizes.push_back(*bytes >> 21 << 21);
  }
  return sizes;
}

Options parse(int argc, char** argv) {
  Options options;
  bool sized = false;
  Arguments arguments(argc, argv, kUsage);
  while (arguments.next()) {
    if (arguments.name() == "--sizes") {
      options.sizes = sizes_of(arguments.value(), arguments);
      sized = true;
    } else if (arguments.name() == "--quick") {
      options.quick = true;
    } else if (arguments.name() == "--only") {
      options.only = arguments.value();
    } else if (arguments.name() == "--json") {
      options.json = true;
    } else {
      arguments.misunderstood();
    }
  }
  if (options.quick && !sized) options.sizes = {std::uint64_t{1} << 30};
  return options;
}

std::string number(double value) {
  char text[32];
  const int digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

/// "1.23 (1.02)": milliseconds, and how many times the bare call's.
std::string cell(const Pair& pair) {
  if (!pair.layer) return "-";
  std::string text = number(*pair.layer);
  if (pair.bare && *pair.bare > 0) text += " (" + number(*pair.layer / *pair.bare) + ")";
  return text;
}

double per_page_us(double ms, std::uint64_t pages) {
  return pages == 0 ? 0 : ms * 1000 / static_cast<double>(pages);
}

void print_head() {
  std::printf(
      "%s\n\nMilliseconds, medians; in brackets: times the bare call's. Writer: microseconds a "
      "page\nwith tracking, without. Stall: the longest pause of a writer while tracking starts, "
      "and in\nas long without.\n\n"
      "| tracker | memory | GiB | dirty %% | start | stall | peek | collect | clear | reported "
      "pages | writer us/page | MiB | runs |\n"
      "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
      host_text().c_str());
}

void print(const Row& row) {
  const DirtyFigures& dirty = row.dirty;
  std::printf("| %s | %s | %s | %s | %s | %s / %s | %s | %s | %s | %llu | %s / %s | %s | %u |\n",
              row.tracker.c_str(), row.memory.c_str(),
              number(static_cast<double>(row.bytes) / (1 << 30)).c_str(),
              number(dirty.percent).c_str(), cell(row.arming.start).c_str(),
              number(row.arming.stall_ms).c_str(), number(row.arming.stall_without_ms).c_str(),
              cell(dirty.peek).c_str(), cell(dirty.collect).c_str(), cell(dirty.clear).c_str(),
              static_cast<unsigned long long>(dirty.reported),
              number(per_page_us(dirty.write_ms, dirty.written)).c_str(),
              number(per_page_us(dirty.write_untracked_ms, dirty.written)).c_str(),
              number(dirty.memory_mib).c_str(), dirty.repeats);
  std::fflush(stdout);
}

std::string json_of(const std::optional<double>& value) {
  return value ? std::to_string(*value) : "null";
}

std::string json_of(const char* name, const Pair& pair) {
  return quoted(std::string(name) + "_ms") + ":" + json_of(pair.layer) + "," +
         quoted(std::string(name) + "_bare_ms") + ":" + json_of(pair.bare);
}

std::string json_of(const Row& row) {
  const auto field = [](const char* name, const std::string& value) {
    return "," + quoted(name) + ":" + value;
  };
  const DirtyFigures& dirty = row.dirty;
  return "{\"tracker\":" + quoted(row.tracker) + field("memory", quoted(row.memory)) +
         field("bare", quoted(row.bare)) + field("bytes", std::to_string(row.bytes)) +
         field("dirty_percent", std::to_string(dirty.percent)) + "," +
         json_of("start", row.arming.start) +
         field("stall_ms", std::to_string(row.arming.stall_ms)) +
         field("stall_without_ms", std::to_string(row.arming.stall_without_ms)) + "," +
         json_of("peek", dirty.peek) + "," + json_of("collect", dirty.collect) + "," +
         json_of("clear", dirty.clear) + field("pages_written", std::to_string(dirty.written)) +
         field("pages_reported", std::to_string(dirty.reported)) +
         field("write_ms", std::to_string(dirty.write_ms)) +
         field("write_untracked_ms", std::to_string(dirty.write_untracked_ms)) +
         field("memory_mib", std::to_string(dirty.memory_mib)) +
         field("repeats", std::to_string(dirty.repeats)) + "}";
}

void measure_bed(const Options& options, const BedMaker& maker, std::uint64_t bytes,
                 TrackerBed& bed, std::vector<Row>& rows) {
  (void)bed.write_untracked(1);
  const double before_mib = memory_in_use_mib();
  const ArmingFigures arming = measure_arming(bed, options.quick ? 1 : 3);
  for (const std::uint64_t step : kSteps) {
    Row row{std::string(maker.tracker), bed.memory(), bed.bare().name, bytes, arming, {}};
    row.dirty =
        measure_dirty(bed, step, options.quick ? 0.2 : 2, options.quick ? 2 : 5, before_mib);
    if (!options.json) print(row);
    rows.push_back(std::move(row));
  }
}

void print_json(const std::vector<Row>& rows, const std::vector<Skipped>& skipped) {
  std::printf("{\"host\":%s,\"rows\":[", host_json().c_str());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::printf("%s%s", i == 0 ? "" : ",", json_of(rows[i]).c_str());
  }
  std::printf("],\"skipped\":[");
  for (std::size_t i = 0; i < skipped.size(); ++i) {
    std::printf("%s{\"tracker\":%s,\"why\":%s}", i == 0 ? "" : ",",
                quoted(skipped[i].tracker).c_str(), quoted(skipped[i].why).c_str());
  }
  std::printf("]}\n");
}

int run(const Options& options) {
  std::vector<Row> rows;
  std::vector<Skipped> skipped;
  if (!options.json) print_head();
  for (const std::uint64_t bytes : options.sizes) {
    for (const BedMaker& maker : bed_makers()) {
      if (maker.tracker.find(options.only) == std::string_view::npos) continue;
      std::string why_not;
      const auto bed = maker.make(bytes, why_not);
      if (bed != nullptr) {
        measure_bed(options, maker, bytes, *bed, rows);
      } else if (bytes == options.sizes.front()) {
        skipped.push_back({std::string(maker.tracker), why_not});
      }
    }
  }
  if (options.json) {
    print_json(rows, skipped);
  } else {
    for (const Skipped& one : skipped) {
      std::printf("\n%s: not here: %s\n", one.tracker.c_str(), one.why.c_str());
    }
  }
  return 0;
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) { return migrate::bench::run(migrate::bench::parse(argc, argv)); }
