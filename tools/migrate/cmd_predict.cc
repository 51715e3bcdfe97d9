// migrate predict: whether and how each strategy would keep a downtime, before anything is sent.
#include <cstdio>
#include <memory>
#include <utility>

#include "command.hpp"
#include "container_trace.hpp"
#include "forecast_conclusion.hpp"
#include "forecast_options.hpp"
#include "forecast_report.hpp"
#include "guest_request.hpp"
#include "migrate/options.hpp"
#include "trace_file.hpp"

namespace migrate::tool {
namespace {

// Beside the recording itself: a pause, and an answer of some megabytes.
constexpr std::chrono::seconds kAnswerPatience{20};

struct PredictOptions {
  std::string guest;
  ContainerChoice container;
  std::string duration = "3s";
  std::string interval = "20ms";
  std::string record;
  ForecastOptions forecast;
};

/// As its process says it, which hosts it.
Result<std::string> download_trace(const PredictOptions& options,
                                   std::chrono::microseconds length) {
  MIGRATE_ASSIGN(const auto socket, guest_socket(options.guest));
  const auto patience = std::chrono::ceil<std::chrono::milliseconds>(length);
  return control_download(socket, "POST", "/v1/trace",
                          {{"duration", options.duration}, {"interval", options.interval}},
                          patience + kAnswerPatience, kTraceBytesMax);
}

Result<DirtyTrace> sample_guest(const PredictOptions& options, std::vector<ForecastCase>& cases) {
  TraceOptions trace;
  MIGRATE_ASSIGN(trace.duration, parse_duration(options.duration));
  MIGRATE_ASSIGN(trace.interval, parse_duration(options.interval));
  MIGRATE_TRY(check(trace));
  if (names_container(options.guest)) {
    MIGRATE_ASSIGN(cases, all_cases(tree_forecast(options.forecast)));
    MIGRATE_ASSIGN(const ContainerProcess process, find_container(options.guest));
    MIGRATE_ASSIGN(DirtyTrace recorded, record_container(process, options.container, trace));
    if (!options.record.empty()) {
      MIGRATE_ASSIGN(const auto content, encode_trace(recorded));
      MIGRATE_TRY(write_trace(options.record, content));
    }
    return recorded;
  }
  MIGRATE_ASSIGN(cases, all_cases(options.forecast));
  MIGRATE_ASSIGN(const std::string bytes, download_trace(options, trace.duration));
  const auto content = std::as_bytes(std::span(bytes));
  MIGRATE_ASSIGN(auto decoded, decode_trace(content));
  if (!options.record.empty()) MIGRATE_TRY(write_trace(options.record, content));
  return decoded;
}

int report(const GlobalOptions& global, const DirtyTrace& trace,
           const std::vector<Forecast>& forecasts) {
  const Conclusion conclusion = conclude(trace, forecasts);
  if (global.json) {
    print_json(forecast_json(trace, forecasts, conclusion));
  } else {
    const std::string text = forecast_text(trace, forecasts, conclusion);
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  return to_int(conclusion.keeps_limit ? ExitCode::kDone : ExitCode::kFailed);
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
  command
      ->add_option("GUEST", options->guest,
                   "NAME, as in `migrate ps`; or pid:PID or container:NAME, a process tree")
      ->required()
      ->type_name("");
  add_forecast_options(*command, options->forecast);
  command->get_option("--bandwidth")->required();
  command->add_option("--duration", options->duration, "How long to watch it (default: 3s)")
      ->type_name("TIME");
  command->add_option("--interval", options->interval, "Of the samples (default: 20ms)")
      ->type_name("TIME");
  command->add_option("--record", options->record, "Also write the trace to FILE, for `what-if`")
      ->type_name("FILE");
  add_container_source_options(*command, options->container);
  command->callback([&global, &chosen, options] {
    if (options->forecast.policies.empty()) options->forecast.policies = {"own"};
    chosen = [&global, options] { return predict(global, *options); };
  });
}

}  // namespace migrate::tool
