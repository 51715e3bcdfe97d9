#include "forecast_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "forecast/trace_pages.hpp"

namespace migrate::tool {
namespace {

double to_ms(std::chrono::microseconds time) { return static_cast<double>(time.count()) / 1000; }

Json to_json(const Estimate& estimate) { return {{"p50", estimate.p50}, {"p95", estimate.p95}}; }

/// Newly dirtied bytes a second, and bytes dirtied at all.
struct Writes {
  double bytes_per_s = 0;
  std::uint64_t set_bytes = 0;
};

Writes writes_of(const DirtyTrace& trace) {
  std::uint64_t written = 0;
  std::vector<bool> ever(trace.pages());
  for (const TraceSample& sample : trace.samples) {
    for (const TraceRun& run : sample.dirtied) {
      written += run.count;
      std::fill_n(ever.begin() + run.first, run.count, true);
    }
  }
  const double seconds = to_ms(trace.length()) / 1000;
  const auto set = static_cast<std::uint64_t>(std::count(ever.begin(), ever.end(), true));
  return {seconds > 0 ? static_cast<double>(written * kPageSize) / seconds : 0, set * kPageSize};
}

std::string time_text(double ms) {
  if (ms >= 10'000) return fmt::format("{:.0f} s", ms / 1000);
  if (ms >= 1000) return fmt::format("{:.2f} s", ms / 1000);
  return fmt::format("{:.1f} ms", ms);
}

std::string bytes_text(double bytes) {
  if (bytes >= 1e9) return fmt::format("{:.2f} GB", bytes / 1e9);
  return fmt::format("{:.1f} MB", bytes / 1e6);
}

std::string verdict(const precopy::Prediction& prediction) {
  if (prediction.keeps_limit()) return "yes";
  if (prediction.done == 0) return "never ends";
  if (prediction.done < prediction.runs) return "not always";
  return prediction.downtime_ms.p50 <= prediction.max_downtime_ms ? "not surely" : "no";
}

std::string pair_text(const Estimate& estimate) {
  return time_text(estimate.p50) + " / " + time_text(estimate.p95);
}

std::string row(const Forecast& forecast) {
  const precopy::Prediction& prediction = forecast.prediction;
  const bool known = prediction.done > 0;
  return fmt::format("{:<10} {:<17} {:<8} {:<10}  {:<21} {:<21} {:>6} {:>10} {:>8}\n",
                     forecast.asked.bandwidth, forecast.asked.strategy, forecast.asked.policy,
                     verdict(prediction), known ? pair_text(prediction.downtime_ms) : "-",
                     known ? pair_text(prediction.total_ms) : "-",
                     known ? fmt::format("{:.0f}", prediction.rounds.p50) : "-",
                     known ? bytes_text(prediction.bytes.p50) : "-",
                     known ? fmt::format("{:.0f} %", 100 * prediction.withheld.p50) : "-");
}

}  // namespace

std::vector<Forecast> predict_all(const DirtyTrace& trace, std::vector<ForecastCase> cases) {
  std::vector<Forecast> forecasts;
  for (ForecastCase& one : cases) {
    precopy::Prediction prediction = precopy::predict(trace, one.input);
    forecasts.push_back({std::move(one), std::move(prediction)});
  }
  return forecasts;
}

Json to_json(const DirtyTrace& trace) {
  const Writes writes = writes_of(trace);
  return {{"guest", trace.guest},
          {"vcpus", trace.vcpus},
          {"memory_bytes", trace.pages() * kPageSize},
          {"zero_bytes", forecast::count(trace.empty) * kPageSize},
          {"paused", trace.paused},
          {"tracker", trace.tracker},
          {"samples", trace.samples.size()},
          {"seconds", to_ms(trace.length()) / 1000},
          {"dirty_bytes_per_s", writes.bytes_per_s},
          {"dirtied_bytes", writes.set_bytes},
          {"pause_ms", to_ms(trace.costs.pause)},
          {"collect_ms", to_ms(trace.costs.collect)},
          {"state_save_ms", to_ms(trace.costs.state_save)},
          {"state_bytes", trace.costs.state_bytes}};
}

std::string to_text(const DirtyTrace& trace) {
  const Writes writes = writes_of(trace);
  const double full =
      static_cast<double>((trace.pages() - forecast::count(trace.empty)) * kPageSize);
  return fmt::format("{}: {} vCPUs, {} of memory in use; in {:.1f} s {}\n", trace.guest,
                     trace.vcpus, bytes_text(full), to_ms(trace.length()) / 1000,
                     trace.paused ? std::string("it stood")
                                  : fmt::format("it wrote {} of pages, {} a second newly",
                                                bytes_text(static_cast<double>(writes.set_bytes)),
                                                bytes_text(writes.bytes_per_s)));
}

Json to_json(const Forecast& forecast) {
  const precopy::Prediction& prediction = forecast.prediction;
  return {{"bandwidth", forecast.asked.bandwidth},
          {"bandwidth_bytes_per_s", forecast.asked.input.bandwidth_bytes_per_s},
          {"strategy", forecast.asked.strategy},
          {"policy", forecast.asked.policy},
          {"keeps_limit", prediction.keeps_limit()},
          {"max_downtime_ms", prediction.max_downtime_ms},
          {"runs", prediction.runs},
          {"runs_done", prediction.done},
          {"downtime_ms", to_json(prediction.downtime_ms)},
          {"total_ms", to_json(prediction.total_ms)},
          {"rounds", to_json(prediction.rounds)},
          {"bytes", to_json(prediction.bytes)},
          {"withheld", to_json(prediction.withheld)},
          {"given_up", prediction.reason.empty() ? Json(nullptr) : Json(prediction.reason)}};
}

Json to_json(const precopy::Simulation& simulation) {
  Json rounds = Json::array();
  for (const precopy::SimulatedRound& round : simulation.rounds) {
    rounds.push_back({{"set_pages", round.set_pages},
                      {"pages", round.sent},
                      {"bytes", round.bytes},
                      {"ms", round.ms},
                      {"dirty_after", round.dirty_after},
                      {"withheld", round.withheld}});
  }
  return {{"done", simulation.done},
          {"reason", simulation.reason},
          {"total_ms", simulation.total_ms},
          {"downtime_ms", simulation.downtime_ms},
          {"max_downtime_ms", simulation.max_downtime_ms},
          {"bytes", simulation.bytes},
          {"residue_pages", simulation.residue_pages},
          {"lost_ms", simulation.lost_ms},
          {"rounds", rounds}};
}

std::string to_text(const std::vector<Forecast>& forecasts) {
  std::string text = fmt::format(
      "{:<10} {:<17} {:<8} {:<10}  {:<21} {:<21} {:>6} {:>10} {:>8}\n", "bandwidth", "strategy",
      "policy", "in limit", "downtime p50 / p95", "total p50 / p95", "rounds", "sent", "withheld");
  for (const Forecast& forecast : forecasts) text += row(forecast);
  return text;
}

std::string bandwidth_text(double bytes_per_s) {
  const double bits = 8 * bytes_per_s;
  if (bits >= 1e9) return fmt::format("{:.4g}Gbit", bits / 1e9);
  if (bits >= 1e6) return fmt::format("{:.4g}Mbit", bits / 1e6);
  return fmt::format("{:.0f} bit/s", bits);
}

}  // namespace migrate::tool
