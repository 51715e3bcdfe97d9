// GET /metrics: the figures a monitoring system scrapes.
#include <fmt/format.h>

#include <array>
#include <iterator>
#include <string_view>

#include "control_api.hpp"

namespace migrate::tool {
namespace {

/// Writes one metric family after the other.
class Exposition {
 public:
  explicit Exposition(std::string guest) : guest_(std::move(guest)) {}

  void family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    fmt::format_to(std::back_inserter(text_), "# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  }
  /// `labels` beside the guest's name, such as `,state="running"`.
  void sample(double value, std::string_view labels = "") {
    fmt::format_to(std::back_inserter(text_), "{}{{guest=\"{}\"{}}} {}\n", name_, guest_, labels,
                   value);
  }
  void gauge(std::string_view name, std::string_view help, double value) {
    family(name, "gauge", help);
    sample(value);
  }
  std::string take() { return std::move(text_); }

 private:
  const std::string guest_;  // A checked name: nothing in it needs escaping.
  std::string_view name_;
  std::string text_;
};

constexpr std::array kStates = {"running",      "paused",    "migrating",
                                "reconnecting", "uncertain", "checkpointing"};

void add_stats(Exposition& out, const Json& stats) {
  const std::array counters = {
      std::pair{"pages_written", "Pages the guest's writers have written."},
      std::pair{"verify_passes", "How often the guest has checked all of its memory."},
      std::pair{"verify_errors", "Errors the guest's self-check has found."},
      std::pair{"packets_answered", "Packets the guest has answered."}};
  for (const auto& [key, help] : counters) {
    const auto value = stats.find(key);
    if (value == stats.end() || !value->is_number()) continue;
    const std::string name = std::string("migrate_guest_") + key + "_total";
    out.family(name, "counter", help);
    out.sample(value->get<double>());
  }
}

void add_progress(Exposition& out, const Progress& progress) {
  out.gauge("migrate_round", "Round of the migration under way.", progress.round);
  out.gauge("migrate_pages_left", "Pages left of this round.",
            static_cast<double>(progress.pages_left));
  out.gauge("migrate_dirty_bytes_per_second", "Rate at which the guest dirties memory.",
            progress.dirty_bytes_per_s);
  out.gauge("migrate_throughput_bytes_per_second", "Rate on the wire.",
            progress.throughput_bytes_per_s);
  out.gauge("migrate_predicted_downtime_seconds", "Downtime, were the switchover now.",
            progress.predicted_downtime_ms / 1000);
  out.gauge("migrate_sent_bytes", "Bytes sent so far.", static_cast<double>(progress.bytes_sent));
}

}  // namespace

std::string metrics_text(const GuestHost& host) {
  const GuestFacts facts = host.facts();
  Exposition out(facts.name);
  out.gauge("migrate_guest_memory_bytes", "Memory of the guest.",
            static_cast<double>(facts.memory_bytes));
  out.gauge("migrate_guest_vcpus", "vCPUs of the guest.", facts.vcpus);
  out.family("migrate_guest_state", "gauge", "1 for the state the guest is in.");
  const std::string state = host.status();
  for (const std::string_view candidate : kStates) {
    out.sample(candidate == state ? 1 : 0, fmt::format(",state=\"{}\"", candidate));
  }
  if (const auto stats = host.stats()) add_stats(out, *stats);
  const auto migration = host.migration();
  if (migration && migration->progress) add_progress(out, *migration->progress);
  if (migration && migration->report) {
    const Report report = report_from_json(*migration->report);
    out.family("migrate_last_outcome", "gauge", "1 for how the last migration ended.");
    out.sample(1, fmt::format(",outcome=\"{}\"", to_string(report.outcome)));
    out.gauge("migrate_last_total_seconds", "Total time of the last migration.",
              report.total_ms / 1000);
    if (report.downtime_ms) {
      out.gauge("migrate_last_downtime_seconds", "Downtime of the last migration.",
                *report.downtime_ms / 1000);
    }
  }
  return out.take();
}

}  // namespace migrate::tool
