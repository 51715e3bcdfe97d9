// One request to the process of the guest called NAME: the whole of the small subcommands.
#pragma once

#include <string>

#include "control_client.hpp"
#include "runtime_dir.hpp"

namespace migrate::tool {

/// The name in "vm:NAME", which says what kind of guest is meant.
[[nodiscard]] Result<std::string> vm_name(const std::string& text);

/// Where the guest called `name` answers; kInvalidArgument for what is no name.
[[nodiscard]] Result<std::filesystem::path> guest_socket(const std::string& name);

[[nodiscard]] Result<Json> guest_request(const std::string& name, const std::string& method,
                                         const std::string& path, const Json& body = nullptr,
                                         std::chrono::milliseconds timeout = kAnswerTimeout);

}  // namespace migrate::tool
