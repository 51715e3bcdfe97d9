#include "report_json.hpp"

#include <sys/utsname.h>

#include <fstream>
#include <system_error>

#include "json_fields.hpp"
#include "postcopy_json.hpp"
#include "version.hpp"

namespace migrate::tool {
namespace {

Json forecast_json(const Estimate& downtime_ms, const Estimate& total_ms) {
  return {{"downtime_ms", finite(downtime_ms.p50)},
          {"downtime_p95_ms", finite(downtime_ms.p95)},
          {"total_ms", finite(total_ms.p50)},
          {"total_p95_ms", finite(total_ms.p95)}};
}

Json rounds_json(const Report& report) {
  Json rounds = Json::array();
  for (const RoundReport& round : report.rounds) {
    rounds.push_back(
        {{"round", round.round},
         {"start_ms", finite(round.start_ms)},
         {"pages", round.pages},
         {"bytes", round.bytes},
         {"ms", finite(round.ms)},
         {"dirty_after", round.dirty_after},
         {"dirty_rate", finite(round.dirty_rate)},
         {"throttle", finite(round.throttle)},
         {"throttle_by_vcpu", round.throttle_by_vcpu},
         {"hot_after", round.hot_after},
         {"predicted", forecast_json(round.predicted_downtime_ms, round.predicted_total_ms)}});
  }
  return rounds;
}

Json failed_attempts_json(const Report& report) {
  Json attempts = Json::array();
  for (const FailedAttempt& attempt : report.failed_attempts) {
    attempts.push_back({{"attempt", attempt.attempt},
                        {"start_ms", finite(attempt.start_ms)},
                        {"stood_ms", finite(attempt.stood_ms)},
                        {"cost_ms", finite(attempt.cost_ms)},
                        {"phase", attempt.phase},
                        {"pages", attempt.pages}});
  }
  return attempts;
}

Json phases_json(const Report& report) {
  const auto& phases = report.phases_ms;
  return {{"setup", finite(phases.setup)},           {"rounds", finite(phases.rounds)},
          {"quiesce", finite(phases.quiesce)},       {"final_sync", finite(phases.final_sync)},
          {"state_save", finite(phases.state_save)}, {"final_pages", finite(phases.final_pages)},
          {"state_load", finite(phases.state_load)}, {"handover", finite(phases.handover)},
          {"start", finite(phases.start)},           {"verify", finite(phases.verify)},
          {"postcopy", finite(phases.postcopy)}};
}

Json pages_json(const Report& report) {
  const auto& pages = report.pages;
  return {{"total", pages.total},         {"raw", pages.raw},
          {"zero", pages.zero},           {"delta", pages.delta},
          {"duplicate", pages.duplicate}, {"compressed", pages.compressed},
          {"unchanged", pages.unchanged}, {"redirtied", pages.redirtied},
          {"demand", pages.demand},       {"pushed", pages.pushed}};
}

template <typename Enum>
std::optional<Enum> from_name(std::string_view name, int first, int last) {
  for (int value = first; value <= last; ++value) {
    if (to_string(static_cast<Enum>(value)) == name) return static_cast<Enum>(value);
  }
  return std::nullopt;
}

Phase phase_from_json(const Json& json) {
  std::string name;
  take(json, "phase", name);
  return from_name<Phase>(name, 0, static_cast<int>(Phase::kPostcopy)).value_or(Phase::kNone);
}

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const auto colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

HostFacts host_facts() {
  utsname system{};
  HostFacts facts;
  if (uname(&system) == 0) facts.kernel = std::string(system.sysname) + " " + system.release;
  facts.cpu = cpu_model();
  return facts;
}

Json to_json(const Error& error) {
  std::string message = error.message;
  if (error.sys_errno != 0) {
    message += " (" + std::generic_category().message(error.sys_errno) + ")";
  }
  return {{"code", to_string(error.code)},
          {"phase", to_string(error.phase)},
          {"side", to_string(error.side)},
          {"message", message},
          {"remedy", error.remedy}};
}

Error error_from_json(const Json& json) {
  Error error;
  if (!json.is_object()) return error;
  std::string code;
  std::string side;
  take(json, "code", code);
  take(json, "side", side);
  take(json, "message", error.message);
  take(json, "remedy", error.remedy);
  error.phase = phase_from_json(json);
  error.side = from_name<Side>(side, 0, static_cast<int>(Side::kTarget)).value_or(Side::kNone);
  error.code = from_name<ErrorCode>(code, 1, static_cast<int>(ErrorCode::kPermission))
                   .value_or(ErrorCode::kInternal);
  return error;
}

Json to_json(const Report& report, const HostFacts& host) {
  Json options = Json::object();
  for (const auto& [name, value] : report.options) options[name] = value;
  return {
      {"schema", kReportSchema},
      {"version", kVersion},
      {"outcome", to_string(report.outcome)},
      {"strategy", report.strategy},
      {"session", report.session},
      {"options", options},
      {"guest",
       {{"name", report.guest.name},
        {"kind", report.guest.kind},
        {"vcpus", report.guest.vcpus},
        {"memory_bytes", report.guest.memory_bytes},
        {"state", report.guest.state},
        {"tracker", report.guest.tracker}}},
      {"host", {{"kernel", host.kernel}, {"cpu", host.cpu}}},
      {"attempts", report.attempts},
      {"total_ms", finite(report.total_ms)},
      {"downtime_ms", report.downtime_ms ? Json(finite(*report.downtime_ms)) : Json(nullptr)},
      {"phases_ms", phases_json(report)},
      {"rounds", rounds_json(report)},
      {"pages", pages_json(report)},
      {"bytes", {{"guest", report.bytes.guest}, {"wire", report.bytes.wire}}},
      {"bandwidth_mib_s", finite(report.bandwidth_mib_s)},
      {"cpu_s", finite(report.cpu_s)},
      {"predicted", forecast_json(report.predicted.downtime_ms, report.predicted.total_ms)},
      {"faults", faults_json(report)},
      {"integrity",
       {{"digest", report.integrity.digest},
        {"full", report.integrity.full},
        {"sampled", report.integrity.sampled}}},
      {"error", report.error ? to_json(*report.error) : Json(nullptr)},
      {"capacity_mib_s", finite(report.capacity_mib_s)},
      {"failed_attempts", failed_attempts_json(report)},
      {"reconnects", {{"count", report.reconnects.count}, {"ms", finite(report.reconnects.ms)}}},
      {"missing", missing_json(report)},
      // Of a target, once its guest runs: whoever told the network fills it in.
      {"takeover", nullptr},
      {"forwarded",
       {{"frames", report.forwarded.frames},
        {"bytes", report.forwarded.bytes},
        {"dropped", report.forwarded.dropped}}},
  };
}

namespace {

void take_guest(const Json& json, Report& report) {
  const Json& guest = part(json, "guest");
  take(guest, "name", report.guest.name);
  take(guest, "kind", report.guest.kind);
  take(guest, "vcpus", report.guest.vcpus);
  take(guest, "memory_bytes", report.guest.memory_bytes);
  take(guest, "state", report.guest.state);
  take(guest, "tracker", report.guest.tracker);
}

void take_phases(const Json& json, Report& report) {
  const Json& phases = part(json, "phases_ms");
  auto& into = report.phases_ms;
  take(phases, "setup", into.setup);
  take(phases, "rounds", into.rounds);
  take(phases, "quiesce", into.quiesce);
  take(phases, "final_sync", into.final_sync);
  take(phases, "state_save", into.state_save);
  take(phases, "final_pages", into.final_pages);
  take(phases, "state_load", into.state_load);
  take(phases, "handover", into.handover);
  take(phases, "start", into.start);
  take(phases, "verify", into.verify);
  take(phases, "postcopy", into.postcopy);
}

void take_rounds(const Json& json, Report& report) {
  const auto rounds = json.find("rounds");
  if (rounds == json.end() || !rounds->is_array()) return;
  for (const Json& entry : *rounds) {
    if (!entry.is_object()) continue;
    RoundReport& round = report.rounds.emplace_back();
    take(entry, "round", round.round);
    take(entry, "start_ms", round.start_ms);
    take(entry, "pages", round.pages);
    take(entry, "bytes", round.bytes);
    take(entry, "ms", round.ms);
    take(entry, "dirty_after", round.dirty_after);
    take(entry, "dirty_rate", round.dirty_rate);
    take(entry, "throttle", round.throttle);
    if (const auto shares = entry.find("throttle_by_vcpu");
        shares != entry.end() && shares->is_array()) {
      for (const Json& share : *shares) {
        if (share.is_number()) round.throttle_by_vcpu.push_back(share.get<double>());
      }
    }
    take(entry, "hot_after", round.hot_after);
    const Json& forecast = part(entry, "predicted");
    take(forecast, "downtime_ms", round.predicted_downtime_ms.p50);
    take(forecast, "downtime_p95_ms", round.predicted_downtime_ms.p95);
    take(forecast, "total_ms", round.predicted_total_ms.p50);
    take(forecast, "total_p95_ms", round.predicted_total_ms.p95);
  }
}

void take_failed_attempts(const Json& json, Report& report) {
  const auto attempts = json.find("failed_attempts");
  if (attempts == json.end() || !attempts->is_array()) return;
  for (const Json& entry : *attempts) {
    if (!entry.is_object()) continue;
    FailedAttempt& attempt = report.failed_attempts.emplace_back();
    take(entry, "attempt", attempt.attempt);
    take(entry, "start_ms", attempt.start_ms);
    take(entry, "stood_ms", attempt.stood_ms);
    take(entry, "cost_ms", attempt.cost_ms);
    take(entry, "phase", attempt.phase);
    take(entry, "pages", attempt.pages);
  }
}

void take_pages(const Json& json, Report& report) {
  const Json& pages = part(json, "pages");
  auto& into = report.pages;
  take(pages, "total", into.total);
  take(pages, "raw", into.raw);
  take(pages, "zero", into.zero);
  take(pages, "delta", into.delta);
  take(pages, "duplicate", into.duplicate);
  take(pages, "compressed", into.compressed);
  take(pages, "unchanged", into.unchanged);
  take(pages, "redirtied", into.redirtied);
  take(pages, "demand", into.demand);
  take(pages, "pushed", into.pushed);
}

void take_figures(const Json& json, Report& report) {
  take(json, "attempts", report.attempts);
  take(json, "total_ms", report.total_ms);
  if (const auto downtime = json.find("downtime_ms");
      downtime != json.end() && downtime->is_number()) {
    report.downtime_ms = downtime->get<double>();
  }
  take(part(json, "bytes"), "guest", report.bytes.guest);
  take(part(json, "bytes"), "wire", report.bytes.wire);
  take(json, "bandwidth_mib_s", report.bandwidth_mib_s);
  take(json, "cpu_s", report.cpu_s);
  const Json& predicted = part(json, "predicted");
  take(predicted, "downtime_ms", report.predicted.downtime_ms.p50);
  take(predicted, "downtime_p95_ms", report.predicted.downtime_ms.p95);
  take(predicted, "total_ms", report.predicted.total_ms.p50);
  take(predicted, "total_p95_ms", report.predicted.total_ms.p95);
  take(json, "capacity_mib_s", report.capacity_mib_s);
  take_failed_attempts(json, report);
  take_faults(part(json, "faults"), report);
  take_missing(part(json, "missing"), report);
  take(part(json, "integrity"), "digest", report.integrity.digest);
  take(part(json, "integrity"), "full", report.integrity.full);
  take(part(json, "integrity"), "sampled", report.integrity.sampled);
  take(part(json, "reconnects"), "count", report.reconnects.count);
  take(part(json, "reconnects"), "ms", report.reconnects.ms);
  take(part(json, "forwarded"), "frames", report.forwarded.frames);
  take(part(json, "forwarded"), "bytes", report.forwarded.bytes);
  take(part(json, "forwarded"), "dropped", report.forwarded.dropped);
}

}  // namespace

Report report_from_json(const Json& json) {
  Report report;
  if (!json.is_object()) return report;
  std::string outcome;
  take(json, "outcome", outcome);
  report.outcome = outcome_from_name(outcome).value_or(Outcome::kFailed);
  take(json, "strategy", report.strategy);
  take(json, "session", report.session);
  for (const auto& [name, value] : part(json, "options").items()) {
    if (value.is_string()) report.options.emplace_back(name, value.get<std::string>());
  }
  take_guest(json, report);
  take_phases(json, report);
  take_rounds(json, report);
  take_pages(json, report);
  take_figures(json, report);
  if (const auto error = json.find("error"); error != json.end() && error->is_object()) {
    report.error = error_from_json(*error);
  }
  return report;
}

Json to_json(const Progress& progress) {
  return {{"phase", to_string(progress.phase)},
          {"round", progress.round},
          {"pages_left", progress.pages_left},
          {"pages_total", progress.pages_total},
          {"dirty_bytes_per_s", finite(progress.dirty_bytes_per_s)},
          {"throughput_bytes_per_s", finite(progress.throughput_bytes_per_s)},
          {"predicted_downtime_ms", finite(progress.predicted_downtime_ms)},
          {"eta_ms", finite(progress.eta_ms)},
          {"elapsed_ms", finite(progress.elapsed_ms)},
          {"bytes_sent", progress.bytes_sent}};
}

Progress progress_from_json(const Json& json) {
  Progress progress;
  if (!json.is_object()) return progress;
  progress.phase = phase_from_json(json);
  take(json, "round", progress.round);
  take(json, "pages_left", progress.pages_left);
  take(json, "pages_total", progress.pages_total);
  take(json, "dirty_bytes_per_s", progress.dirty_bytes_per_s);
  take(json, "throughput_bytes_per_s", progress.throughput_bytes_per_s);
  take(json, "predicted_downtime_ms", progress.predicted_downtime_ms);
  take(json, "eta_ms", progress.eta_ms);
  take(json, "elapsed_ms", progress.elapsed_ms);
  take(json, "bytes_sent", progress.bytes_sent);
  return progress;
}

Json to_json(const Event& event) {
  return {{"name", event.name},
          {"phase", to_string(event.phase)},
          {"round", event.round},
          {"detail", event.detail}};
}

Event event_from_json(const Json& json) {
  Event event;
  if (!json.is_object()) return event;
  event.phase = phase_from_json(json);
  take(json, "name", event.name);
  take(json, "round", event.round);
  take(json, "detail", event.detail);
  return event;
}

Report report_of(Outcome outcome, Side side, const Error& error) {
  Report report;
  report.outcome = outcome;
  report.side = side;
  report.error = error;
  return report;
}

std::optional<Outcome> outcome_from_name(std::string_view name) {
  return from_name<Outcome>(name, 0, static_cast<int>(Outcome::kLost));
}

}  // namespace migrate::tool
