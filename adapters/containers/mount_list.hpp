// What is mounted where, as /proc/PID/mountinfo tells it.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

namespace migrate::containers {

struct MountEntry {
  std::string device;   ///< "0:27".
  std::string root;     ///< Which folder or file of its file system it shows.
  std::string point;    ///< Where, from its namespace's root.
  std::string type;     ///< "tmpfs".
  std::string options;  ///< Of the file system, not of the mount: "rw,cpu,cpuacct".
};

/// Lines that are none are left out.
[[nodiscard]] std::vector<MountEntry> parse_mount_list(std::string_view mountinfo);
/// Empty without such a process.
[[nodiscard]] std::vector<MountEntry> mounts_of(pid_t pid);

/// Which cgroups it shows: "" for version 2, "cpu,cpuacct" or "name=systemd" for a hierarchy of
/// version 1. Only of types cgroup and cgroup2.
[[nodiscard]] std::string cgroup_hierarchy(const MountEntry& mount);
[[nodiscard]] inline bool shows_cgroups(const MountEntry& mount) {
  return mount.type == "cgroup" || mount.type == "cgroup2";
}

}  // namespace migrate::containers
