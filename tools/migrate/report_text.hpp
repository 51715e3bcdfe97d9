// The report as people read it: `send` and `recv` without --json.
#pragma once

#include <string>

#include "migrate/progress.hpp"

namespace migrate::tool {

/// Several lines, each ended.
[[nodiscard]] std::string report_text(const Report& report);

/// An error with its remedy on a line of its own: "migrate: ...\n  what to do\n".
[[nodiscard]] std::string error_text(const Error& error);

}  // namespace migrate::tool
