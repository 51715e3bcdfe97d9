// migrate what-if: migrations of a recorded guest, simulated.
#include <cstdio>
#include <memory>
#include <utility>

#include "command.hpp"
#include "forecast_options.hpp"
#include "forecast_report.hpp"
#include "precopy/simulation.hpp"
#include "trace_file.hpp"

namespace migrate::tool {
namespace {

struct WhatIfOptions {
  std::string file;
  bool sweep = false;
  ForecastOptions forecast;
};

/// Options that --sweep varies itself.
Status check_sweep(const WhatIfOptions& options) {
  for (const char* name : {"strategy", "on-stall"}) {
    if (!options.sweep || options.forecast.migration.count(name) == 0) continue;
    return make_error(ErrorCode::kInvalidArgument,
                      std::string("--sweep goes through all strategies: it takes no --") + name)
        .advise("leave one of the two out");
  }
  if (!options.sweep && options.forecast.bandwidths.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "--bandwidth is missing")
        .advise("give one or several, such as --bandwidth 1Gbit,10Gbit, or --sweep");
  }
  return {};
}

Result<std::vector<ForecastCase>> cases_of(WhatIfOptions options) {
  MIGRATE_TRY(check_sweep(options));
  ForecastOptions& forecast = options.forecast;
  if (forecast.bandwidths.empty()) {
    forecast.bandwidths = {"1Gbit", "2.5Gbit", "10Gbit", "25Gbit", "40Gbit", "100Gbit"};
  }
  if (forecast.policies.empty()) {
    forecast.policies = options.sweep ? std::vector<std::string>{"own", "xen", "qemu", "fixed:5"}
                                      : std::vector<std::string>{"own"};
  }
  return options.sweep ? all_cases(forecast) : exact_cases(forecast);
}

Json row(const DirtyTrace& trace, const Forecast& forecast, bool in_full) {
  Json json = to_json(forecast);
  if (in_full) json["simulation"] = to_json(precopy::simulate(trace, forecast.asked.input));
  return json;
}

int what_if(const GlobalOptions& global, const WhatIfOptions& options) {
  auto cases = cases_of(options);
  if (!cases) return fail(global, cases.error());
  const auto trace = read_trace(options.file);
  if (!trace) return fail(global, trace.error());
  const auto forecasts = predict_all(*trace, *std::move(cases));
  if (global.json) {
    Json rows = Json::array();
    for (const Forecast& forecast : forecasts)
      rows.push_back(row(*trace, forecast, !options.sweep));
    print_json({{"trace", to_json(*trace)}, {"cases", rows}});
  } else {
    const std::string text = to_text(*trace) + "\n" + to_text(forecasts);
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_what_if(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  auto options = std::make_shared<WhatIfOptions>();
  CLI::App* command = app.add_subcommand(
      "what-if", "Simulate migrations of a guest that `predict --record` has recorded");
  command->add_option("FILE", options->file, "The trace")->required()->type_name("");
  add_forecast_options(*command, options->forecast);
  add_forecast_limit(*command, options->forecast, "strategy");
  add_forecast_limit(*command, options->forecast, "on-stall");
  command->add_flag(
      "--sweep", options->sweep,
      "A table over bandwidths (1 to 100Gbit, or those given), policies and strategies");
  command->callback([&global, &chosen, options] {
    chosen = [&global, options] { return what_if(global, *options); };
  });
}

}  // namespace migrate::tool
