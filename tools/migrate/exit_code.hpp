// What the command's exit status says; pinned, scripts rely on it.
#pragma once

#include "migrate/progress.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

enum class ExitCode : int {
  kDone = 0,
  kFailed = 1,   ///< The source guest is as it was.
  kUsage = 2,    ///< The command line, or a value on it, is wrong.
  kRefused = 3,  ///< The preflight said no; nothing moved.
  kCancelled = 4,
  kUncertain = 5,  ///< The guest stands paused; see `migrate resolve`.
  kLost = 6,       ///< The guest is gone.
};

[[nodiscard]] ExitCode exit_code(Outcome outcome);
/// For failures outside a migration.
[[nodiscard]] ExitCode exit_code(const Error& error);
[[nodiscard]] constexpr int to_int(ExitCode code) { return static_cast<int>(code); }

}  // namespace migrate::tool
