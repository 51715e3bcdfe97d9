#include "adapters/containers/source/tree_facts.hpp"

#include <sys/utsname.h>
#include <unistd.h>

#include <set>
#include <sstream>
#include <utility>

#include "adapters/containers/source/process_tree.hpp"
#include "adapters/containers/source/tree_mounts.hpp"
#include "adapters/containers/source/tree_outputs.hpp"

namespace migrate::containers {
namespace {

/// Of its sockets, as "/proc/PID/fd" names them.
std::set<std::string> socket_numbers(const std::vector<TreeProcess>& tree) {
  std::set<std::string> numbers;
  for (const TreeProcess& process : tree) {
    for (const int fd : numbers_in(proc_path(process.pid, "fd"))) {
      const std::string target = read_link(proc_path(process.pid, "fd/" + std::to_string(fd)));
      if (!target.starts_with("socket:[")) continue;
      numbers.insert(target.substr(8, target.size() - 9));
    }
  }
  return numbers;
}

/// A line of /proc/PID/net/tcp: number, local, remote, state, ..., socket as the tenth.
bool has_socket_in(const std::string& text, const std::set<std::string>& sockets,
                   std::string_view state) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string field[10];
    for (std::string& one : field) fields >> one;
    if ((state.empty() || field[3] == state) && sockets.contains(field[9])) return true;
  }
  return false;
}

/// `state` as in /proc/PID/net/tcp; empty: any.
bool has_tcp(pid_t root, const std::vector<TreeProcess>& tree, std::string_view state) {
  const std::set<std::string> sockets = socket_numbers(tree);
  if (sockets.empty()) return false;
  for (const char* table : {"net/tcp", "net/tcp6"}) {
    const auto text = read_proc(proc_path(root, table));
    if (text && has_socket_in(*text, sockets, state)) return true;
  }
  return false;
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

constexpr std::string_view kEstablished = "01";

}  // namespace

bool has_tcp_sockets(pid_t root) { return has_tcp(root, list_descendants(root), {}); }

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
  description.tcp =
      options.tcp == ContainerTcp::kEstablished && has_tcp(options.root, tree, kEstablished);
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
