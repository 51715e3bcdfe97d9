// What the target has to know of the tree, and what CRIU is told of its surroundings.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "adapters/containers/criu/criu_worker.hpp"
#include "adapters/containers/tree_state.hpp"
#include "migrate/containers.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// `kind` as under /proc/PID/ns: the process has a namespace that this process is not in.
[[nodiscard]] bool has_own_namespace(pid_t pid, const std::string& kind);
/// CRIU's --external for the tree's network namespace, where it has its own.
[[nodiscard]] std::optional<std::string> external_network(pid_t root);
/// Whether the tree has TCP sockets, listening ones among them, in whatever network namespace, now.
[[nodiscard]] bool has_tcp_sockets(pid_t root);
/// Of the tree as it is now.
[[nodiscard]] Result<TreeDescription> describe_tree(const ContainerSourceOptions& options,
                                                    const CriuVersion& version);
/// The group by which the tree's processor time can be limited: its own of version 2, or version
/// 1's. kUnsupported where there is none.
[[nodiscard]] Result<std::string> cpu_group(pid_t root, const std::string& own_group);

}  // namespace migrate::containers
