// The data path, measured: whole migrations of guests with known memory, by every way of packing,
// over loopback and over shaped links, beside what the machine could do at most; and a verdict for
// each thing the data path is held to.
#include <pthread.h>
#include <signal.h>  // NOLINT: sigwait

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/transfer_goals.hpp"
#include "migrate/options.hpp"

namespace migrate::bench {
namespace {

constexpr const char* kUsage =
    "usage: transfer [--content C]... [--compress M]... [--link RATE]... [--tls] [--writer]\n"
    "                [--no-pump] [--memory SIZE] [--lanes N] [--strategy S] [--repeats N] "
    "[--json]\n"
    "       transfer --all | --goal NAME... [--memory SIZE] [--lanes N] [--strategy S]\n"
    "                [--repeats N] [--json]\n"
    "       transfer --write-image FILE [--content C] [--memory SIZE]\n"
    "  --content      mixed, zero, text, random: what guest memory holds [each of them]\n"
    "  --compress     as `migrate send` takes it [none, zstd:1 and auto]\n"
    "  --link         between two network namespaces, shaped to RATE such as 1Gbit; needs root\n"
    "                 [loopback]\n"
    "  --tls          the link has TLS\n"
    "  --writer       the guest runs, and writes 200 MB/s in 256 MB [it stands]\n"
    "  --no-pump      only migrations\n"
    "  --memory       of the guest; three times that is needed [2G]\n"
    "  --lanes        connections for pages [2]\n"
    "  --strategy     as `migrate send` takes it [auto]\n"
    "  --repeats      of each, in turns [5]\n"
    "  --goal         raw, zeros, packing, links, tls, writer, delta: those figures, and a "
    "verdict\n"
    "                 for each goal; --all: all of them, in about ten minutes\n"
    "  --write-image  what guest memory of this content is, as a file, for other programs\n";

using Judge = Findings (*)(const GoalSetup&);
constexpr std::pair<std::string_view, Judge> kJudges[] = {
    {"raw", judge_raw},    {"zeros", judge_zeros},   {"packing", judge_packing},
    {"tls", judge_tls},    {"writer", judge_writer}, {"delta", judge_delta},
    {"links", judge_links}};

struct Settings {
  GoalSetup shared;
  std::vector<std::string> contents, compress;
  std::vector<double> links;  ///< Bytes a second.
  std::vector<Judge> judges;
  std::string image;
  bool tls = false;
  bool writer = false;
  bool pump = true;
  bool json = false;
};

Findings measure_rows(const Settings& settings) {
  std::vector<std::unique_ptr<Link>> links;
  for (const double rate : settings.links) links.push_back(make_shaped_link(rate));
  if (links.empty()) links.push_back(make_loopback_link());
  MatrixSetup matrix;
  const std::size_t plain = links.size();
  for (std::size_t i = 0; settings.tls && i < plain; ++i) links.push_back(make_tls_link(*links[i]));
  for (std::size_t i = settings.tls ? plain : 0; i < links.size(); ++i) {
    matrix.links.push_back(links[i].get());
  }
  matrix.memory_bytes = settings.shared.memory_bytes;
  matrix.lanes = settings.shared.lanes;
  matrix.repeats = settings.shared.repeats;
  matrix.strategy = settings.shared.strategy;
  matrix.writing = settings.writer;
  if (!settings.contents.empty()) matrix.contents = settings.contents;
  if (!settings.compress.empty()) matrix.compress = settings.compress;
  // A pump's memory must stand still, and on a slow link it says what the link is.
  if (settings.pump && !settings.writer && settings.links.empty()) {
    matrix.pumps = {PumpWork::kHashed};
  }
  return {run_matrix(matrix), {}, {}};
}

void print_row(const Row& row) {
  std::printf("%-8s %-8s %-15s %-7s %9.1f %7.2f %7.2f %9.1f %6.2f %8.2f", row.content.c_str(),
              row.compress.c_str(), row.link.c_str(), row.writing ? "writes" : "stands",
              row.total_ms.median(), row.guest_gb_per_s(),
              static_cast<double>(row.memory_bytes) / 1e6 / row.once_ms.median(),
              row.wire_bytes.median() / 1e6, row.multiple_of_link(), row.cpu_s_per_gib());
  if (row.downtime_ms.count() > 0) std::printf("  downtime %.2f ms", row.downtime_ms.median());
  if (row.scan_speed.count() > 0) std::printf("  %.2f x the scan", row.scan_speed.median());
  std::printf("\n");
  for (const PumpSamples& pump : row.pumps) {
    const double ms = pump.ms.median();
    std::printf("    pump, %-27s %9.1f %7.2f %33.2f  the migration's speed is %.2f of it\n",
                std::string(to_string(pump.work)).c_str(), ms,
                static_cast<double>(row.memory_bytes) / 1e6 / ms,
                pump.cpu_s.median() / (static_cast<double>(row.memory_bytes) / (1ull << 30)),
                pump.speed.median());
  }
}

void print_heading(const Settings& settings) {
  double load[1] = {0};
  (void)::getloadavg(load, 1);
  std::printf("%s, load %.1f; %u lanes\n\n", host_text().c_str(), load[0], settings.shared.lanes);
  std::printf("%-8s %-8s %-15s %-7s %9s %7s %7s %9s %6s %8s\n", "content", "compress", "link",
              "guest", "total ms", "GB/s", "once", "wire MB", "x link", "cpu s/GiB");
}

void print_verdicts(const Findings& findings) {
  if (!findings.notes.empty()) std::printf("\n");
  for (const std::string& note : findings.notes) std::printf("%s\n", note.c_str());
  if (!findings.verdicts.empty()) std::printf("\n");
  for (const Verdict& verdict : findings.verdicts) {
    std::printf("%-6s %8.3f (%s %.2f)  %s\n", verdict.held() ? "held" : "MISSED", verdict.measured,
                verdict.at_most ? "at most" : "at least", verdict.bound, verdict.goal.c_str());
  }
}

void print_json_row(const Row& row) {
  std::printf("{\"content\":%s,\"compress\":%s,\"link\":%s,\"writing\":%s,\"memory_bytes\":%llu,",
              quoted(row.content).c_str(), quoted(row.compress).c_str(), quoted(row.link).c_str(),
              row.writing ? "true" : "false", static_cast<unsigned long long>(row.memory_bytes));
  std::printf(
      "\"runs\":%zu,\"total_ms\":%.3f,\"once_ms\":%.3f,\"gb_per_s\":%.3f,"
      "\"wire_bytes\":%.0f,\"link_bytes_per_s\":%.0f,\"cpu_s\":%.3f,\"cpu_s_per_gib\":%.3f,"
      "\"compressed_pages\":%.0f,",
      row.total_ms.count(), row.total_ms.median(), row.once_ms.median(), row.guest_gb_per_s(),
      row.wire_bytes.median(), row.link_bytes_per_s, row.cpu_s.median(), row.cpu_s_per_gib(),
      row.compressed_pages.median());
  if (row.downtime_ms.count() > 0) std::printf("\"downtime_ms\":%.3f,", row.downtime_ms.median());
  if (row.scan_speed.count() > 0) std::printf("\"of_scan\":%.3f,", row.scan_speed.median());
  std::printf("\"pumps\":[");
  for (std::size_t i = 0; i < row.pumps.size(); ++i) {
    const PumpSamples& pump = row.pumps[i];
    std::printf("%s{\"work\":%s,\"ms\":%.3f,\"cpu_s\":%.3f,\"of_pump\":%.3f}", i > 0 ? "," : "",
                quoted(to_string(pump.work)).c_str(), pump.ms.median(), pump.cpu_s.median(),
                pump.speed.median());
  }
  std::printf("]}");
}

void print_json(const Settings& settings, const Findings& findings) {
  std::printf("{\"schema\":\"migrate-bench-transfer\",\"version\":1,\"host\":%s,\"lanes\":%u,",
              host_json().c_str(), settings.shared.lanes);
  std::printf("\"rows\":[");
  for (std::size_t i = 0; i < findings.rows.size(); ++i) {
    if (i > 0) std::printf(",");
    print_json_row(findings.rows[i]);
  }
  std::printf("],\"goals\":[");
  for (std::size_t i = 0; i < findings.verdicts.size(); ++i) {
    const Verdict& verdict = findings.verdicts[i];
    std::printf("%s{\"goal\":%s,\"measured\":%.4f,\"%s\":%.3f,\"held\":%s}", i > 0 ? "," : "",
                quoted(verdict.goal).c_str(), verdict.measured,
                verdict.at_most ? "at_most" : "at_least", verdict.bound,
                verdict.held() ? "true" : "false");
  }
  std::printf("],\"notes\":[");
  for (std::size_t i = 0; i < findings.notes.size(); ++i) {
    std::printf("%s%s", i > 0 ? "," : "", quoted(findings.notes[i]).c_str());
  }
  std::printf("]}\n");
}

void measure(const Settings& settings) {
  if (!settings.json) print_heading(settings);
  Findings all;
  const auto note = [&](const Findings& found) {
    if (!settings.json) {
      for (const Row& row : found.rows) print_row(row);
      std::fflush(stdout);
    }
    all.rows.insert(all.rows.end(), found.rows.begin(), found.rows.end());
    all.verdicts.insert(all.verdicts.end(), found.verdicts.begin(), found.verdicts.end());
    all.notes.insert(all.notes.end(), found.notes.begin(), found.notes.end());
  };
  if (settings.judges.empty()) note(measure_rows(settings));
  for (const Judge judge : settings.judges) note(judge(settings.shared));
  settings.json ? print_json(settings, all) : print_verdicts(all);
}

void add_judge(Settings& settings, std::string_view name, const Arguments& arguments) {
  const auto* const found = std::find_if(std::begin(kJudges), std::end(kJudges),
                                         [&](const auto& judge) { return judge.first == name; });
  if (found == std::end(kJudges)) arguments.misunderstood();
  settings.judges.push_back(found->second);
}

Settings parse(Arguments arguments) {
  Settings settings;
  while (arguments.next()) {
    const std::string_view name = arguments.name();
    if (name == "--json") {
      settings.json = true;
    } else if (name == "--content") {
      settings.contents.emplace_back(arguments.value());
    } else if (name == "--compress") {
      settings.compress.emplace_back(arguments.value());
    } else if (name == "--link") {
      settings.links.push_back(static_cast<double>(must(parse_rate(arguments.value()))));
    } else if (name == "--tls") {
      settings.tls = true;
    } else if (name == "--writer") {
      settings.writer = true;
    } else if (name == "--no-pump") {
      settings.pump = false;
    } else if (name == "--memory") {
      settings.shared.memory_bytes = arguments.size();
    } else if (name == "--lanes") {
      settings.shared.lanes = arguments.count();
    } else if (name == "--repeats") {
      settings.shared.repeats = arguments.count();
    } else if (name == "--strategy") {
      OutgoingOptions options;
      must(set_option(options, "strategy", arguments.value()));
      settings.shared.strategy = options.strategy;
    } else if (name == "--all") {
      for (const auto& judge : kJudges) settings.judges.push_back(judge.second);
    } else if (name == "--goal") {
      add_judge(settings, arguments.value(), arguments);
    } else if (name == "--write-image") {
      settings.image = arguments.value();
    } else {
      arguments.misunderstood();
    }
  }
  return settings;
}

/// Being told to end is a way out as any other: what is static, such as folders, is taken away.
void leave_on_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  // Blocked in all threads, which are begun later.
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    int number = 0;
    sigwait(&signals, &number);
    std::exit(128 + number);
  }).detach();
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  using namespace migrate::bench;
  const Settings settings = parse(Arguments(argc, argv, kUsage));
  leave_on_signals();
  if (settings.image.empty()) {
    measure(settings);
  } else {
    write_image(settings.image, settings.contents.empty() ? "mixed" : settings.contents.front(),
                settings.shared.memory_bytes);
  }
  return 0;
}
