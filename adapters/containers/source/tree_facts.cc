#include "adapters/containers/source/tree_facts.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <sstream>
#include <utility>

#include "adapters/containers/source/process_tree.hpp"
#include "adapters/containers/source/tree_mounts.hpp"
#include "adapters/containers/source/tree_outputs.hpp"
#include "base/fd.hpp"

namespace migrate::containers {
namespace {

/// A socket says by this what it is, whatever network namespace it belongs to.
bool is_tcp(const std::string& path) {
  char name[32];
  const ssize_t got = ::getxattr(path.c_str(), "system.sockprotoname", name, sizeof(name));
  if (got <= 0) return false;
  const std::string_view text(name, ::strnlen(name, static_cast<std::size_t>(got)));
  return text == "TCP" || text == "TCPv6" || text == "MPTCP" || text == "MPTCPv6";
}

/// Calls `take(process, fd)` for the tree's TCP sockets until it says true, and says whether it
/// has.
template <typename Take>
bool any_tcp_socket(const std::vector<TreeProcess>& tree, Take take) {
  for (const TreeProcess& process : tree) {
    for (const int fd : numbers_in(proc_path(process.pid, "fd"))) {
      const std::string path = proc_path(process.pid, "fd/" + std::to_string(fd));
      if (read_link(path).starts_with("socket:[") && is_tcp(path) && take(process.pid, fd)) {
        return true;
      }
    }
  }
  return false;
}

/// What cannot be asked counts as connected: its connection is then taken care of.
bool is_connected(pid_t pid, int fd) {
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (!socket || ::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return true;
  return info.tcpi_state == TCP_ESTABLISHED;
}

/// The path of `pid` in version 1's hierarchy with `controller`; empty without.
std::string path_in_hierarchy(pid_t pid, const std::string& controller) {
  std::istringstream lines(read_proc(proc_path(pid, "cgroup")).value_or(""));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers.find("," + controller + ",") != std::string::npos) {
      return line.substr(second + 1);
    }
  }
  return {};
}

/// Where version 1's hierarchy with `controller` is mounted whole; empty: nowhere.
std::string mount_of(const std::string& controller) {
  std::istringstream lines(read_proc("/proc/self/mountinfo").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t type = line.find(" - cgroup ");
    if (type == std::string::npos) continue;
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    const std::string options = "," + line.substr(line.rfind(' ') + 1) + ",";
    if (root == "/" && options.find("," + controller + ",") != std::string::npos) return point;
  }
  return {};
}

}  // namespace

bool has_tcp_sockets(pid_t root) {
  return any_tcp_socket(list_descendants(root), [](pid_t, int) { return true; });
}

bool has_own_namespace(pid_t pid, const std::string& kind) {
  const std::string theirs = read_link(proc_path(pid, "ns/" + kind));
  return !theirs.empty() && theirs != read_link("/proc/self/ns/" + kind);
}

std::optional<std::string> external_network(pid_t root) {
  if (!has_own_namespace(root, "net")) return std::nullopt;
  // "net:[4026531840]"
  const std::string link = read_link(proc_path(root, "ns/net"));
  const std::string inode = link.substr(link.find('[') + 1, link.find(']') - link.find('[') - 1);
  return "net[" + inode + "]:" + std::string(kNetworkKey);
}

Result<TreeDescription> describe_tree(const ContainerSourceOptions& options,
                                      const CriuVersion& version) {
  const std::vector<TreeProcess> tree = list_descendants(options.root);
  TreeDescription description;
  description.criu_version = version.text;
  utsname machine{};
  ::uname(&machine);
  description.machine = machine.machine;
  description.pid_namespace = has_own_namespace(options.root, "pid");
  description.mount_namespace = has_own_namespace(options.root, "mnt");
  description.network_namespace = has_own_namespace(options.root, "net");
  description.mounts = external_mounts(options);
  description.outputs = outputs_of(tree);
  description.tcp = options.tcp == ContainerTcp::kEstablished && any_tcp_socket(tree, is_connected);
  for (const TreeProcess& process : tree) {
    const auto threads = thread_numbers_in_tree(process.pid);
    description.pids.insert(description.pids.end(), threads.begin(), threads.end());
  }
  if (!description.pids.empty()) return description;
  return make_error(ErrorCode::kNotFound,
                    "there is no process " + std::to_string(options.root) + " any more");
}

Result<std::string> cpu_group(pid_t root, const std::string& own_group) {
  if (::access((own_group + "/cpu.max").c_str(), F_OK) == 0) return own_group;
  const std::string path = path_in_hierarchy(root, "cpu");
  const std::string mount = mount_of("cpu");
  if (!mount.empty() && path.size() > 1) return mount + path;
  return make_error(ErrorCode::kUnsupported,
                    "the tree has no cgroup by which its processor time can be limited")
      .advise("start it in a cgroup of its own with the cpu controller");
}

}  // namespace migrate::containers
