// A request for a checkpoint as it travels from the command to the guest's process.
#pragma once

#include <string>

#include "guest_host.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// The body of POST /v1/checkpoint; paths in it are absolute.
[[nodiscard]] Result<CheckpointRequest> parse_checkpoint_request(const std::string& body);

/// At most so many lanes, and threads.
inline constexpr unsigned kImageLanesMax = 64;

}  // namespace migrate::tool
