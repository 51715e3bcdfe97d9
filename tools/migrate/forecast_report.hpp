// What `predict` and `what-if` say: a trace in short, and a table of cases.
#pragma once

#include <string>
#include <vector>

#include "forecast_options.hpp"
#include "migrate/dirty_trace.hpp"
#include "precopy/prediction.hpp"
#include "report_json.hpp"

namespace migrate::tool {

struct Forecast {
  ForecastCase asked;
  precopy::Prediction prediction;
};

/// Each case, predicted.
[[nodiscard]] std::vector<Forecast> predict_all(const DirtyTrace& trace,
                                                std::vector<ForecastCase> cases);

/// A trace's figures.
[[nodiscard]] Json to_json(const DirtyTrace& trace);
[[nodiscard]] std::string to_text(const DirtyTrace& trace);

[[nodiscard]] Json to_json(const Forecast& forecast);
[[nodiscard]] Json to_json(const precopy::Simulation& simulation);
[[nodiscard]] std::string to_text(const std::vector<Forecast>& forecasts);

/// "10Gbit", "1.25Gbit", "400Mbit", "800kbit".
[[nodiscard]] std::string bandwidth_text(double bytes_per_s);

}  // namespace migrate::tool
