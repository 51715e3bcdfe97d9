#include "base/log.hpp"

#include <array>
#include <atomic>
#include <string>
#include <utility>

#include "base/mutex.hpp"

namespace migrate {
namespace {

constexpr std::array kNames = {std::string_view("debug"), std::string_view("info"),
                               std::string_view("warning"), std::string_view("error"),
                               std::string_view("off")};

struct Log {
  std::atomic<LogLevel> least{LogLevel::kOff};
  Mutex mutex;
  LogSink sink MIGRATE_GUARDED_BY(mutex);
};

// Never destroyed: threads may log while the process ends.
Log& the_log() {
  static Log& log = *new Log;
  return log;
}

}  // namespace

std::string_view to_string(LogLevel level) {
  const auto index = static_cast<std::size_t>(level);
  return index < kNames.size() ? kNames[index] : "unknown";
}

Result<LogLevel> parse_log_level(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<LogLevel>(i);
  }
  return make_error(ErrorCode::kInvalidArgument,
                    "\"" + std::string(name) +
                        "\" is not a log level; accepted: debug, info, warning, error, off");
}

void set_log_sink(LogLevel least, LogSink sink) {
  Log& log = the_log();
  MutexLock lock(log.mutex);
  log.least.store(sink ? least : LogLevel::kOff, std::memory_order_relaxed);
  log.sink = std::move(sink);
}

bool log_enabled(LogLevel level) noexcept {
  return level >= the_log().least.load(std::memory_order_relaxed) && level != LogLevel::kOff;
}

void log_line(LogLevel level, std::string_view line) {
  if (!log_enabled(level)) return;
  Log& log = the_log();
  MutexLock lock(log.mutex);
  if (log.sink && log_enabled(level)) log.sink(level, line);
}

}  // namespace migrate
