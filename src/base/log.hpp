// Writing to the log; who reads it is in migrate/log.hpp.
#pragma once

#include <string_view>

#include "migrate/log.hpp"

namespace migrate {

/// Worth composing a line for? One relaxed load.
[[nodiscard]] bool log_enabled(LogLevel level) noexcept;

/// Any thread.
void log_line(LogLevel level, std::string_view line);

}  // namespace migrate
