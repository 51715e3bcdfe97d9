#include "adapters/containers/target/target_mounts.hpp"

#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <string_view>

#include "adapters/containers/source/process_tree.hpp"

namespace migrate::containers {
namespace {

/// Where CRIU finds what belongs to it by itself, at both ends alike.
constexpr std::string_view kAutomatic = "mnt[]";

/// A name of the peer's becomes a part of a path: only what is known is.
std::string device_of(const ExternalMount& mount) {
  const std::string name = mount.key.substr(kDeviceKey.size());
  for (const char* const known : {"null", "zero", "full", "random", "urandom"}) {
    if (name == known) return "/dev/" + name;
  }
  return "/dev/null";
}

/// "cpu,cpuacct" of a key; "" of version 2's.
std::string hierarchy_of(const ExternalMount& mount) {
  return mount.key.size() > kCgroupKey.size() ? mount.key.substr(kCgroupKey.size() + 1) : "";
}

/// This process's path in a hierarchy, of the lines "4:cpuacct,cpu:/path" of /proc/PID/cgroup.
std::string own_path(const std::string& groups, const std::string& hierarchy) {
  std::istringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    MountEntry named;
    named.type = "cgroup";
    named.options = line.substr(first + 1, second - first - 1);
    if (cgroup_hierarchy(named) == hierarchy) return line.substr(second + 1);
  }
  return {};
}

/// This process's folder in a hierarchy of version 1; empty without.
std::string folder_of(const CgroupPlaces& here, const std::string& hierarchy) {
  const std::string path = own_path(here.groups, hierarchy);
  if (path.empty()) return {};
  const auto found =
      std::find_if(here.mounts.begin(), here.mounts.end(), [&](const MountEntry& mount) {
        return mount.type == "cgroup" && mount.root == "/" && cgroup_hierarchy(mount) == hierarchy;
      });
  if (found == here.mounts.end()) return {};
  return path == "/" ? found->point : found->point + path;
}

}  // namespace

std::vector<ExternalMount> unnamed_mounts(std::span<const ExternalMount> mounts,
                                          std::span<const std::string> named) {
  std::vector<ExternalMount> unnamed;
  for (const ExternalMount& mount : mounts) {
    const std::string begin = "mnt[" + mount.key + "]:";
    const bool is_named = std::any_of(named.begin(), named.end(), [&](const std::string& word) {
      return word.starts_with(begin);
    });
    if (!is_named && !is_provided_unasked(mount)) unnamed.push_back(mount);
  }
  return unnamed;
}

CgroupPlaces cgroup_places() {
  return {mounts_of(::getpid()), read_proc("/proc/self/cgroup").value_or("")};
}

std::vector<std::string> provided_words(std::span<const ExternalMount> mounts,
                                        const CgroupPlaces& here, const std::string& group,
                                        const std::string& empty) {
  std::vector<std::string> words;
  for (const ExternalMount& mount : mounts) {
    if (!is_provided_unasked(mount)) continue;
    std::string place = empty;
    if (mount.key.starts_with(kDeviceKey)) {
      place = device_of(mount);
    } else if (mount.key.starts_with(kCgroupKey)) {
      const std::string hierarchy = hierarchy_of(mount);
      place = hierarchy.empty() ? group : folder_of(here, hierarchy);
    }
    words.push_back("mnt[" + mount.key + "]:" + (place.empty() ? empty : place));
  }
  return words;
}

std::vector<std::string> words_to_leave(std::span<const ExternalMount> mounts,
                                        std::span<const std::string> named) {
  std::vector<std::string> words;
  for (const ExternalMount& mount : mounts) {
    if (is_provided_unasked(mount) || mount.key == mount.point) continue;
    words.push_back("mnt[" + mount.point + "]:" + mount.key);
  }
  for (const std::string& word : named) {
    if (word.starts_with(kAutomatic)) words.push_back(word);
  }
  return words;
}

}  // namespace migrate::containers
