// The library's log: silent until somebody sets a sink.
//
// What a caller can act on comes back as a Result or stands in a Report. The log is for the rest:
// connections that were refused, a fallback that was taken, a record that could not be written.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "migrate/result.hpp"

namespace migrate {

enum class LogLevel : std::uint8_t { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3, kOff = 4 };
[[nodiscard]] std::string_view to_string(LogLevel level);
/// kInvalidArgument names what is accepted.
[[nodiscard]] Result<LogLevel> parse_log_level(std::string_view name);

/// Takes one line, without its end. Called by one thread at a time, any of the library's; must not
/// log itself, nor throw.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Lines of `least` and above go to `sink` from now on; the former sink is not called any more once
/// this returns. LogLevel::kOff or an empty sink make the log silent. For the whole process; any
/// thread.
void set_log_sink(LogLevel least, LogSink sink);

}  // namespace migrate
