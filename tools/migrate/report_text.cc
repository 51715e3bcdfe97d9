#include "report_text.hpp"

#include <fmt/format.h>

#include <iterator>
#include <system_error>
#include <utility>
#include <vector>

#include "progress_line.hpp"

namespace migrate::tool {
namespace {

using Lines = std::back_insert_iterator<std::string>;

void add_summary(Lines out, const Report& report) {
  fmt::format_to(out, "outcome      {}\n", to_string(report.outcome));
  if (!report.guest.name.empty()) {
    fmt::format_to(out, "guest        {}: {}, {} vCPU{}, {}, {}\n", report.guest.name,
                   report.guest.kind, report.guest.vcpus, report.guest.vcpus == 1 ? "" : "s",
                   human_bytes(static_cast<double>(report.guest.memory_bytes)), report.guest.state);
  }
  if (!report.session.empty()) fmt::format_to(out, "session      {}\n", report.session);
  if (!report.strategy.empty()) {
    fmt::format_to(out, "strategy     {}{}{}, attempts: {}\n", report.strategy,
                   report.guest.tracker.empty() ? "" : ", dirty tracker ", report.guest.tracker,
                   report.attempts);
  }
  fmt::format_to(out, "total time   {}\n", human_ms(report.total_ms));
  if (report.downtime_ms) {
    fmt::format_to(out, "downtime     {}", human_ms(*report.downtime_ms));
    if (report.predicted.downtime_ms.p50 > 0) {
      fmt::format_to(out, " (predicted {}, at most {})", human_ms(report.predicted.downtime_ms.p50),
                     human_ms(report.predicted.downtime_ms.p95));
    }
    fmt::format_to(out, "\n");
  }
}

void add_phases(Lines out, const Report& report) {
  const auto& phases = report.phases_ms;
  const std::vector<std::pair<const char*, double>> times = {
      {"setup", phases.setup},           {"rounds", phases.rounds},
      {"quiesce", phases.quiesce},       {"final sync", phases.final_sync},
      {"state save", phases.state_save}, {"final pages", phases.final_pages},
      {"state load", phases.state_load}, {"handover", phases.handover},
      {"start", phases.start},           {"verify", phases.verify},
      {"post-copy", phases.postcopy}};
  for (const auto& [name, ms] : times) {
    if (ms > 0) fmt::format_to(out, "  {:<12} {}\n", name, human_ms(ms));
  }
}

void add_rounds(Lines out, const Report& report) {
  if (report.rounds.empty()) return;
  fmt::format_to(out,
                 "round        pages         sent         time  dirty after   dirty rate  held\n");
  for (const RoundReport& round : report.rounds) {
    fmt::format_to(out, "{:>5} {:>12} {:>12} {:>12} {:>12} {:>10}/s  {:>3.0f}%\n", round.round,
                   round.pages, human_bytes(static_cast<double>(round.bytes)), human_ms(round.ms),
                   round.dirty_after, human_bytes(round.dirty_rate), round.throttle * 100);
  }
}

void add_pages(Lines out, const Report& report) {
  const auto& pages = report.pages;
  const std::vector<std::pair<const char*, std::uint64_t>> counts = {
      {"raw", pages.raw},
      {"zero", pages.zero},
      {"delta", pages.delta},
      {"duplicate", pages.duplicate},
      {"compressed", pages.compressed},
      {"unchanged", pages.unchanged},
      {"re-dirtied", pages.redirtied},
      {"on demand", pages.demand},
      {"pushed", pages.pushed}};
  fmt::format_to(out, "pages        {} in all", pages.total);
  for (const auto& [name, count] : counts) {
    if (count > 0) fmt::format_to(out, ", {} {}", count, name);
  }
  fmt::format_to(
      out, "\nbytes        {} of the guest, {} on the wire, {:.0f} MiB/s, {:.2f} s of CPU\n",
      human_bytes(static_cast<double>(report.bytes.guest)),
      human_bytes(static_cast<double>(report.bytes.wire)), report.bandwidth_mib_s, report.cpu_s);
  fmt::format_to(out, "integrity    digest {}, full {}, sampled {}\n", report.integrity.digest,
                 report.integrity.full, report.integrity.sampled);
  if (report.faults.count + report.faults.local > 0) {
    fmt::format_to(out,
                   "faults       {} of missing pages, {:.0f} us half of them, {:.0f} us 99 of 100, "
                   "{:.0f} us the longest; {} of zeros\n",
                   report.faults.count, report.faults.p50_us, report.faults.p99_us,
                   report.faults.max_us, report.faults.local);
  }
  if (report.missing.pages > 0) {
    fmt::format_to(out, "missing      {} pages are lost", report.missing.pages);
    for (const std::string& range : report.missing.ranges) fmt::format_to(out, ", {}", range);
    fmt::format_to(out, "\n");
  }
  if (report.reconnects.count > 0) {
    fmt::format_to(out, "link         lost and opened again {} times, {:.0f} ms without it\n",
                   report.reconnects.count, report.reconnects.ms);
  }
}

}  // namespace

std::string report_text(const Report& report) {
  std::string text;
  Lines out = std::back_inserter(text);
  add_summary(out, report);
  add_phases(out, report);
  add_rounds(out, report);
  if (report.bytes.wire > 0) add_pages(out, report);
  if (report.error) text += error_text(*report.error);
  return text;
}

std::string error_text(const Error& error) {
  std::string text = "migrate: ";
  if (error.side != Side::kNone) text.append(to_string(error.side)).append(": ");
  if (error.phase != Phase::kNone) text.append(to_string(error.phase)).append(": ");
  text += error.message;
  if (error.sys_errno != 0) {
    text += " (" + std::generic_category().message(error.sys_errno) + ")";
  }
  text += "\n";
  if (!error.remedy.empty()) text += "  " + error.remedy + "\n";
  return text;
}

}  // namespace migrate::tool
