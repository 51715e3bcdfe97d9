// The client's side of a checkpoint: one request to the guest's process that lasts for as long as
// the image is written.
#pragma once

#include <filesystem>

#include "migrate/result.hpp"
#include "report_json.hpp"
#include "signals.hpp"

namespace migrate::tool {

/// Asks for it and waits; a signal cancels it, and its report says so. What could not begin is an
/// error. `signalled` is set where a signal came.
[[nodiscard]] Result<Json> request_checkpoint(const std::filesystem::path& socket, const Json& body,
                                              const SignalFd& signals, bool& signalled);

}  // namespace migrate::tool
