// Whether this host can take a tree, by what it says of itself before anything moves.
#pragma once

#include <string>
#include <vector>

#include "adapters/containers/criu/criu_worker.hpp"
#include "adapters/containers/tree_state.hpp"
#include "migrate/containers.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

struct HostFacts {
  CriuVersion criu;
  std::string machine;
};

/// All reasons at once: kIncompatible with what to do about them.
[[nodiscard]] Status check_tree_fits(const TreeDescription& tree,
                                     const ContainerTargetOptions& options, const HostFacts& host);
/// Those of `pids` that some process or thread of this pid namespace has.
[[nodiscard]] std::vector<pid_t> taken_pids(const std::vector<pid_t>& pids);
/// uname -m.
[[nodiscard]] std::string machine_name();
/// Whether something is mounted at `path`; false, too, where there is nothing.
[[nodiscard]] bool is_mount_point(const std::string& path);

}  // namespace migrate::containers
