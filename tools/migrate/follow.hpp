// Following a migration from outside the guest's process: `send` and `status --follow`.
#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "control_client.hpp"
#include "progress_line.hpp"
#include "signals.hpp"

namespace migrate::tool {

struct FollowOptions {
  std::uint64_t migration = 0;  ///< Which one; events of others are passed over.
  std::string target;           ///< For messages.
  bool event_lines = true;      ///< Events as lines where standard error is no terminal.
  std::FILE* events = nullptr;  ///< Every message as a line of JSON, if any.
  /// Called with a signal that came; false ends following.
  std::function<bool(int)> on_signal;
  /// The guest's process goes with a guest that has left. False where that is this process.
  bool wait_for_end = true;
  /// Where that is this process: asked, when the stream is lost, for the report, for which it
  /// waits.
  std::function<Json()> report_here;
};

/// The final report; nullopt when on_signal ended it. When the guest's process ends without one,
/// a report that says so. A guest that left has gone from this host, its socket too, on return.
[[nodiscard]] std::optional<Json> follow_migration(EventStream& stream, const SignalFd& signals,
                                                   const FollowOptions& options);

/// The exit code a report stands for.
[[nodiscard]] int report_exit_code(const Json& report);

}  // namespace migrate::tool
