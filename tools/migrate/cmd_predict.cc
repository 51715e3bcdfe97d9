// migrate predict: whether and how each strategy would keep a downtime, before anything is sent.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "command.hpp"
#include "forecast_options.hpp"
#include "forecast_report.hpp"
#include "guest_request.hpp"
#include "migrate/options.hpp"
#include "trace_file.hpp"

namespace migrate::tool {
namespace {

// Beside the recording itself: a pause, and an answer of some megabytes.
constexpr std::chrono::seconds kAnswerPatience{20};
// Where no strategy keeps the limit, up to which bandwidth one is looked for that does.
constexpr double kBandwidthSought = 12.5e9;
// A downtime that no guest here exceeds: rounds then go on for as long as each of them helps.
constexpr std::chrono::seconds kAnyDowntime{86'400};

struct PredictOptions {
  std::string guest;
  std::string duration = "3s";
  std::string interval = "20ms";
  std::string record;
  ForecastOptions forecast;
};

Result<DirtyTrace> sample_guest(const PredictOptions& options, std::vector<ForecastCase>& cases) {
  TraceOptions trace;
  MIGRATE_ASSIGN(trace.duration, parse_duration(options.duration));
  MIGRATE_ASSIGN(trace.interval, parse_duration(options.interval));
  MIGRATE_TRY(check(trace));
  MIGRATE_ASSIGN(cases, all_cases(options.forecast));
  MIGRATE_ASSIGN(const auto socket, guest_socket(options.guest));
  const auto patience = std::chrono::ceil<std::chrono::milliseconds>(trace.duration);
  MIGRATE_ASSIGN(const std::string bytes,
                 control_download(socket, "POST", "/v1/trace",
                                  {{"duration", options.duration}, {"interval", options.interval}},
                                  patience + kAnswerPatience, kTraceBytesMax));
  const auto content = std::as_bytes(std::span(bytes));
  MIGRATE_ASSIGN(auto decoded, decode_trace(content));
  if (!options.record.empty()) MIGRATE_TRY(write_trace(options.record, content));
  return decoded;
}

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

int report(const GlobalOptions& global, const DirtyTrace& trace,
           const std::vector<Forecast>& forecasts) {
  const Forecast* best = choose(forecasts);
  const Advice advice = best == nullptr ? advise(trace, forecasts) : Advice{};
  const std::string conclusion = best == nullptr ? advice_text(advice) : choice_text(*best);
  if (global.json) {
    Json rows = Json::array();
    for (const Forecast& forecast : forecasts) rows.push_back(to_json(forecast));
    Json needed = nullptr;
    if (best == nullptr) {
      needed = {{"bandwidth_bytes_per_s", advice.bandwidth_bytes_per_s},
                {"max_downtime_ms", advice.downtime_ms}};
    }
    print_json({{"trace", to_json(trace)},
                {"keeps_limit", best != nullptr},
                {"strategies", rows},
                {"needed", needed},
                {"conclusion", conclusion}});
  } else {
    const std::string text =
        to_text(trace) +
        fmt::format("downtime limit {:.1f} ms\n\n", forecasts.front().prediction.max_downtime_ms) +
        to_text(forecasts) + "\n" + conclusion + "\n";
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  return to_int(best != nullptr ? ExitCode::kDone : ExitCode::kFailed);
}

int predict(const GlobalOptions& global, const PredictOptions& options) {
  std::vector<ForecastCase> cases;
  const auto trace = sample_guest(options, cases);
  if (!trace) return fail(global, trace.error());
  return report(global, *trace, predict_all(*trace, std::move(cases)));
}

}  // namespace

void add_predict(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<PredictOptions>();
  CLI::App* command = app.add_subcommand(
      "predict", "Watch a guest for a few seconds, and say how a migration of it would go");
  command->add_option("NAME", options->guest, "The guest")->required()->type_name("");
  add_forecast_options(*command, options->forecast);
  command->get_option("--bandwidth")->required();
  command->add_option("--duration", options->duration, "How long to watch it (default: 3s)")
      ->type_name("TIME");
  command->add_option("--interval", options->interval, "Of the samples (default: 20ms)")
      ->type_name("TIME");
  command->add_option("--record", options->record, "Also write the trace to FILE, for `what-if`")
      ->type_name("FILE");
  command->callback([&global, &chosen, options] {
    if (options->forecast.policies.empty()) options->forecast.policies = {"own"};
    chosen = [&global, options] { return predict(global, *options); };
  });
}

}  // namespace migrate::tool
