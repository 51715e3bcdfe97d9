// What follows from forecasts: which way to migrate, or what it would take for one to keep the
// limit.
#pragma once

#include <string>
#include <vector>

#include "forecast_report.hpp"

namespace migrate::tool {

struct Conclusion {
  bool keeps_limit = false;  ///< Some strategy does.
  std::string text;          ///< A sentence.
  Json needed;               ///< Where none does: what would; null else.
};
/// `forecasts` has one at least; the last is the one with the most means.
[[nodiscard]] Conclusion conclude(const DirtyTrace& trace, const std::vector<Forecast>& forecasts);

/// Trace, table and conclusion, for people.
[[nodiscard]] std::string forecast_text(const DirtyTrace& trace,
                                        const std::vector<Forecast>& forecasts,
                                        const Conclusion& conclusion);
/// The same: keys "trace", "keeps_limit", "strategies", "needed", "conclusion".
[[nodiscard]] Json forecast_json(const DirtyTrace& trace, const std::vector<Forecast>& forecasts,
                                 const Conclusion& conclusion);

}  // namespace migrate::tool
