// What a tree had mounted from outside of it, provided here.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "adapters/containers/mount_list.hpp"
#include "adapters/containers/tree_state.hpp"

namespace migrate::containers {

/// Mounts that nothing is named for here. `named`: CRIU's --external words of a restore.
[[nodiscard]] std::vector<ExternalMount> unnamed_mounts(std::span<const ExternalMount> mounts,
                                                        std::span<const std::string> named);

/// Where this host has cgroups: its mounts, and this process's /proc/PID/cgroup.
struct CgroupPlaces {
  std::vector<MountEntry> mounts;
  std::string groups;
};
[[nodiscard]] CgroupPlaces cgroup_places();

/// CRIU's --external words for what is provided unasked. Cgroups: `group`, the folder that the tree
/// gets, for version 2; this process's own for a hierarchy of version 1, in which the tree is; and
/// `empty`, a folder, for one that this host does not have.
[[nodiscard]] std::vector<std::string> provided_words(std::span<const ExternalMount> mounts,
                                                      const CgroupPlaces& here,
                                                      const std::string& group,
                                                      const std::string& empty);

/// How the source named what is not found by itself, for when the tree leaves again.
[[nodiscard]] std::vector<std::string> words_to_leave(std::span<const ExternalMount> mounts,
                                                      std::span<const std::string> named);

}  // namespace migrate::containers
