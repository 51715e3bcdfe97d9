// The library's log: silent until somebody sets a sink.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "migrate/result.hpp"

namespace migrate {

enum class LogLevel : std::uint8_t { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3, kOff = 4 };
[[nodiscard]] std::string_view to_string(LogLevel level);
[[nodiscard]] Result<LogLevel> parse_log_level(std::string_view name);

/// Takes one line, without its end. Called by one thread at a time; must not log itself.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Lines of `least` and above go to `sink` from now on; the former sink is not called any more once
/// this returns. LogLevel::kOff or an empty sink make the log silent.
void set_log_sink(LogLevel least, LogSink sink);

/// Worth composing a line for? One relaxed load.
[[nodiscard]] bool log_enabled(LogLevel level) noexcept;

/// Any thread.
void log_line(LogLevel level, std::string_view line);

}  // namespace migrate
