// What is mounted in a tree from outside of it: CRIU does not carry that along, and the target has
// to provide it.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "adapters/containers/mount_list.hpp"
#include "adapters/containers/tree_state.hpp"
#include "migrate/containers.hpp"

namespace migrate::containers {

/// The key of what every host has, by where a mount is in the tree (kNothingKey, kDeviceKey); empty
/// for anything else.
using MountLook = std::function<std::string(const std::string& point)>;

/// Which of a mount namespace's mounts are of no file system that CRIU mounts anew, and no part of
/// one that is there. `named`: the --external words that were given; what they leave out is called
/// by where it is mounted, and cgroups by their hierarchy.
[[nodiscard]] std::vector<ExternalMount> external_mounts(std::span<const MountEntry> mounts,
                                                         std::span<const std::string> named,
                                                         const MountLook& look);
/// The same of a tree as it is now; none where it is in this process's mount namespace.
[[nodiscard]] std::vector<ExternalMount> external_mounts(const ContainerSourceOptions& options);
/// The words for CRIU: those given, and those for what they leave out.
[[nodiscard]] std::vector<std::string> external_words(const ContainerSourceOptions& options);

}  // namespace migrate::containers
