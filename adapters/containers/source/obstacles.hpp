// What stands in the way of moving a tree, found by looking only.
#pragma once

#include <vector>

#include "adapters/containers/source/process_tree.hpp"
#include "migrate/containers.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

using Findings = std::vector<ContainerFinding>;

/// All but CRIU itself.
[[nodiscard]] Findings find_obstacles(const ContainerSourceOptions& options);
/// kUnsupported with all that blocks, and the first one's remedy; kPermission without root.
Status refuse_obstacles(const ContainerSourceOptions& options);

/// The process has a ring for asynchronous I/O (io_setup): the kernel writes to its memory by pages
/// that it has pinned, which no tracker sees.
[[nodiscard]] bool does_asynchronous_io(pid_t pid);

/// Of what the processes have open. `tree`: without zombies.
void find_in_descriptors(const std::vector<TreeProcess>& tree, Findings& findings);
/// One of the tree's processes has a socket of IPv4 or IPv6.
[[nodiscard]] bool has_internet_sockets(const std::vector<TreeProcess>& tree);

}  // namespace migrate::containers
