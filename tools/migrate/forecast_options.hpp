// What `predict` and `what-if` are asked: which link, which limits, which ways to migrate.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"
#include "precopy/simulation.hpp"

namespace migrate::tool {

/// As given on the command line.
struct ForecastOptions {
  std::vector<std::string> bandwidths;
  std::vector<std::string> policies;
  std::map<std::string, std::string> migration;  ///< Options of `send`, by name.
  std::string round_trip = "200us";
  double content_ratio = 1;
};
/// Adds them all.
void add_forecast_options(CLI::App& command, ForecastOptions& options);

/// Adds one more of `send`'s.
void add_forecast_limit(CLI::App& command, ForecastOptions& options, std::string_view name);

/// One way to migrate, over one link.
struct ForecastCase {
  std::string bandwidth;  ///< As given.
  std::string policy;     ///< "-" where nothing is to be decided.
  std::string strategy;   ///< "stop-copy", "precopy" or "precopy+throttle".
  precopy::SimulationInput input;
};

/// stop-copy, pre-copy and pre-copy that throttles, by each policy, at each bandwidth.
[[nodiscard]] Result<std::vector<ForecastCase>> all_cases(const ForecastOptions& options);
/// What exactly was asked for: one case for each bandwidth and policy.
[[nodiscard]] Result<std::vector<ForecastCase>> exact_cases(const ForecastOptions& options);

}  // namespace migrate::tool
