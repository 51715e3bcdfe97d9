#include "forecast_conclusion.hpp"

#include <fmt/format.h>

#include <utility>

#include "precopy/prediction.hpp"

namespace migrate::tool {
namespace {

// Where no strategy keeps the limit, up to which bandwidth one is looked for that does.
constexpr double kBandwidthSought = 12.5e9;
// A downtime that no guest here exceeds: rounds then go on for as long as each of them helps.
constexpr std::chrono::seconds kAnyDowntime{86'400};

/// What would keep the limit where nothing does: a faster link, or a longer downtime.
struct Advice {
  double bandwidth_bytes_per_s = 0;  ///< 0: none was found.
  double downtime_ms = 0;
};

Advice advise(const DirtyTrace& trace, const std::vector<Forecast>& forecasts) {
  Advice advice;
  // The last is the one that has the most means.
  const precopy::SimulationInput& most = forecasts.back().asked.input;
  advice.bandwidth_bytes_per_s = precopy::bandwidth_needed(trace, most, kBandwidthSought);
  for (const Forecast& forecast : forecasts) {
    precopy::SimulationInput input = forecast.asked.input;
    input.options.max_downtime = kAnyDowntime;
    const auto prediction = precopy::predict(trace, input);
    if (!prediction.keeps_limit()) continue;
    const double needed = prediction.downtime_ms.p95;
    if (advice.downtime_ms == 0 || needed < advice.downtime_ms) advice.downtime_ms = needed;
  }
  return advice;
}

std::string advice_text(const Advice& advice) {
  std::string text = "No strategy keeps the limit.";
  const bool faster = advice.bandwidth_bytes_per_s > 0;
  if (faster) {
    text +=
        fmt::format(" It would take {} of bandwidth", bandwidth_text(advice.bandwidth_bytes_per_s));
  }
  if (advice.downtime_ms > 0) {
    text += fmt::format("{} a limit of {:.1f} ms{}", faster ? ", or" : " It would take",
                        advice.downtime_ms, faster ? " at this one" : "");
  }
  return text + (faster || advice.downtime_ms > 0 ? "." : "");
}

/// The one to take: what costs the guest least, among those that keep the limit.
const Forecast* choose(const std::vector<Forecast>& forecasts) {
  const Forecast* best = nullptr;
  for (const Forecast& forecast : forecasts) {
    if (!forecast.prediction.keeps_limit()) continue;
    const auto cost = [](const Forecast& f) {
      return std::pair(f.prediction.withheld.p95, f.prediction.total_ms.p50);
    };
    if (best == nullptr || cost(forecast) < cost(*best)) best = &forecast;
  }
  return best;
}

std::string choice_text(const Forecast& best) {
  return fmt::format(
      "{}{} keeps the limit at {}: {:.1f} ms of downtime expected, {:.1f} ms at the p95.",
      best.asked.strategy, best.asked.policy == "-" ? "" : " (" + best.asked.policy + ")",
      best.asked.bandwidth, best.prediction.downtime_ms.p50, best.prediction.downtime_ms.p95);
}

}  // namespace

Conclusion conclude(const DirtyTrace& trace, const std::vector<Forecast>& forecasts) {
  if (const Forecast* const best = choose(forecasts)) return {true, choice_text(*best), nullptr};
  const Advice advice = advise(trace, forecasts);
  return {false,
          advice_text(advice),
          {{"bandwidth_bytes_per_s", advice.bandwidth_bytes_per_s},
           {"max_downtime_ms", advice.downtime_ms}}};
}

std::string forecast_text(const DirtyTrace& trace, const std::vector<Forecast>& forecasts,
                          const Conclusion& conclusion) {
  return to_text(trace) +
         fmt::format("downtime limit {:.1f} ms\n\n", forecasts.front().prediction.max_downtime_ms) +
         to_text(forecasts) + "\n" + conclusion.text + "\n";
}

Json forecast_json(const DirtyTrace& trace, const std::vector<Forecast>& forecasts,
                   const Conclusion& conclusion) {
  Json rows = Json::array();
  for (const Forecast& forecast : forecasts) rows.push_back(to_json(forecast));
  return {{"trace", to_json(trace)},
          {"keeps_limit", conclusion.keeps_limit},
          {"strategies", rows},
          {"needed", conclusion.needed},
          {"conclusion", conclusion.text}};
}

}  // namespace migrate::tool
