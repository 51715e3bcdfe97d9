#include "adapters/containers/target/target_checks.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <charconv>

#include "adapters/containers/target/output_pipes.hpp"
#include "adapters/containers/target/target_mounts.hpp"

namespace migrate::containers {
namespace {

constexpr std::size_t kPidsNamed = 8;

struct Reasons {
  std::string what;
  std::string remedies;

  void add(const std::string& reason, const std::string& remedy) {
    what += (what.empty() ? "" : "; ") + reason;
    remedies += (remedies.empty() ? "" : "; ") + remedy;
  }
};

/// "4.2.1"; what is not a number counts as 0.
std::array<int, 3> numbers_of(const std::string& version) {
  std::array<int, 3> numbers{};
  const char* at = version.data();
  const char* const end = at + version.size();
  for (int& number : numbers) {
    const auto read = std::from_chars(at, end, number);
    at = read.ptr;
    if (at == end || *at != '.') break;
    ++at;
  }
  return numbers;
}

void check_places(const TreeDescription& tree, const ContainerTargetOptions& options,
                  Reasons& reasons) {
  struct stat status {};
  if (tree.mount_namespace && options.root.empty()) {
    reasons.add("the tree has a mount namespace of its own, and no root is given for it here",
                "name the folder with its files (root)");
  } else if (!options.root.empty() &&
             (::stat(options.root.c_str(), &status) != 0 || !S_ISDIR(status.st_mode))) {
    reasons.add("the tree's root here, " + options.root + ", is no folder",
                "make it, with the same files as at the source");
  }
  if (tree.network_namespace && options.network.empty()) {
    reasons.add("the tree has a network namespace of its own, and none is given for it here",
                "make one (ip netns add NAME) and name it (network)");
  } else if (!options.network.empty() && ::access(options.network.c_str(), R_OK) != 0) {
    reasons.add("there is no network namespace " + options.network, "ip netns add NAME");
  }
  if (tree.outputs.size() > kOutputsMax) {
    reasons.add("the tree writes to " + std::to_string(tree.outputs.size()) +
                    " pipes that are read outside of it, and " + std::to_string(kOutputsMax) +
                    " at most can be read here",
                "end what has so many open");
  }
  for (const ExternalMount& mount : unnamed_mounts(tree.mounts, options.externals)) {
    reasons.add("the tree has " + mount.point +
                    " mounted from outside of it, and nothing is named "
                    "for it here",
                "--container-external 'mnt[" + mount.key + "]:PLACE_HERE'");
  }
}

}  // namespace

Status check_tree_fits(const TreeDescription& tree, const ContainerTargetOptions& options,
                       const HostFacts& host) {
  Reasons reasons;
  const std::array<int, 3> here{host.criu.major, host.criu.minor, host.criu.sublevel};
  if (here < numbers_of(tree.criu_version)) {
    reasons.add("CRIU is " + host.criu.text + " here and " + tree.criu_version + " at the source",
                "install CRIU " + tree.criu_version + " or newer here");
  }
  if (tree.machine != host.machine) {
    reasons.add("this host is " + host.machine + " and the source " + tree.machine,
                "choose a host with the same processor architecture");
  }
  if (!tree.pid_namespace) {
    const std::vector<pid_t> taken = taken_pids(tree.pids);
    std::string list;
    for (std::size_t i = 0; i < taken.size() && i < kPidsNamed; ++i) {
      list += (i == 0 ? "" : ", ") + std::to_string(taken[i]);
    }
    if (taken.size() > kPidsNamed) list += ", ...";
    if (!taken.empty()) {
      reasons.add("process numbers of the tree are taken here: " + list,
                  "end those processes, or run the tree in a pid namespace of its own");
    }
  }
  check_places(tree, options, reasons);
  if (reasons.what.empty()) return {};
  return make_error(ErrorCode::kIncompatible, reasons.what).advise(reasons.remedies);
}

std::vector<pid_t> taken_pids(const std::vector<pid_t>& pids) {
  std::vector<pid_t> taken;
  for (const pid_t pid : pids) {
    // Threads, too: their folders are there though they are not listed.
    if (::access(("/proc/" + std::to_string(pid)).c_str(), F_OK) == 0) taken.push_back(pid);
  }
  return taken;
}

std::string machine_name() {
  utsname name{};
  return ::uname(&name) == 0 ? name.machine : "";
}

bool is_mount_point(const std::string& path) {
  struct statx status {};
  return ::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT, 0, &status) == 0 &&
         (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace migrate::containers
