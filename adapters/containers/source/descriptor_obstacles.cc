// What of a tree's open descriptors CRIU cannot move, or the trackers of its memory cannot see.
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>

#include "adapters/containers/source/obstacles.hpp"
#include "base/fd.hpp"

namespace migrate::containers {
namespace {

constexpr unsigned kMemoryDevices = 1;
constexpr unsigned kTerminals = 4;
constexpr unsigned kTerminalDevices = 5;  // tty, console, ptmx.
constexpr unsigned kPtmx = 2;
constexpr unsigned kPtsFirst = 136;
constexpr unsigned kPtsLast = 143;
constexpr unsigned kTun = 200;  // Of the major number for miscellaneous devices.
constexpr unsigned kMisc = 10;

struct Descriptor {
  pid_t pid = 0;
  int number = -1;
  std::string target;

  [[nodiscard]] std::string path(const char* folder) const {
    return proc_path(pid, std::string(folder) + "/" + std::to_string(number));
  }
  [[nodiscard]] std::string text() const {
    return "process " + std::to_string(pid) + " has " + target + " open (descriptor " +
           std::to_string(number) + ")";
  }
};

std::vector<Descriptor> descriptors_of(const std::vector<TreeProcess>& tree) {
  std::vector<Descriptor> all;
  for (const TreeProcess& process : tree) {
    for (const int number : numbers_in(proc_path(process.pid, "fd"))) {
      Descriptor one{process.pid, number, {}};
      one.target = read_link(one.path("fd"));
      if (!one.target.empty()) all.push_back(std::move(one));
    }
  }
  return all;
}

/// The number of the terminal that a master (/dev/ptmx) belongs to, -1 for none.
int terminal_of(const Descriptor& master) {
  const std::string text = read_proc(master.path("fdinfo")).value_or("");
  constexpr std::string_view kKey = "tty-index:";
  const std::size_t at = text.find(kKey);
  return at == std::string::npos ? -1 : std::atoi(text.c_str() + at + kKey.size());
}

void look_at_device(const Descriptor& one, const struct stat& facts, const std::set<int>& terminals,
                    Findings& findings) {
  const unsigned kind = major(facts.st_rdev);
  const unsigned which = minor(facts.st_rdev);
  if (S_ISCHR(facts.st_mode)) {
    if (kind == kMemoryDevices && (which == 3 || which == 5 || (which >= 7 && which <= 9))) return;
    if (kind == kTerminalDevices && which == kPtmx) return;
    if (kind == kMisc && which == kTun) return;
    const bool pts = kind >= kPtsFirst && kind <= kPtsLast;
    if (pts && terminals.contains(static_cast<int>((kind - kPtsFirst) * 256 + which))) return;
    if (pts || kind == kTerminals || kind == kTerminalDevices) {
      findings.push_back({true, one.text() + ", a terminal from outside the tree",
                          "start the tree with its descriptors on files or sockets (setsid "
                          "program </dev/null >log 2>&1)"});
      return;
    }
  }
  const bool gpu = one.target.starts_with("/dev/nvidia") || one.target.starts_with("/dev/dri/") ||
                   one.target.starts_with("/dev/kfd");
  findings.push_back({true, one.text() + (gpu ? ", a GPU" : ", a device"),
                      "devices stay where they are: end what uses it"});
}

void look_at_anonymous(const Descriptor& one, Findings& findings) {
  // CRIU moves these.
  constexpr std::array<std::string_view, 9> kFine = {"[eventfd]", "[eventpoll]", "[signalfd]",
                                                     "[timerfd]", "inotify",     "[fanotify]",
                                                     "[pidfd]",   "bpf-map",     "[bpf-map]"};
  const std::string_view kind = std::string_view(one.target).substr(11);
  if (std::find(kFine.begin(), kFine.end(), kind) != kFine.end() || kind == "[inotify]") return;
  if (kind == "[io_uring]") {
    findings.push_back({true,
                        one.text() + ": it writes to memory unseen, and CRIU does not move it",
                        "switch io_uring off in the program, or for the host (sysctl "
                        "kernel.io_uring_disabled=2) before the program starts"});
    return;
  }
  const bool userfault = kind == "[userfaultfd]";
  findings.push_back({true, one.text() + ", which CRIU does not move",
                      userfault ? "wait until lazily filled memory is there, or end what uses it"
                                : "end what uses it"});
}

struct SocketKind {
  int domain = -1;
  int type = -1;
  int protocol = -1;
};

SocketKind kind_of(const Descriptor& one) {
  SocketKind kind;
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, one.pid, 0)));
  const Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), one.number, 0)));
  const auto get = [&](int option, int& value) {
    socklen_t size = sizeof(value);
    (void)::getsockopt(socket.get(), SOL_SOCKET, option, &value, &size);
  };
  if (!socket) return kind;
  get(SO_DOMAIN, kind.domain);
  get(SO_TYPE, kind.type);
  get(SO_PROTOCOL, kind.protocol);
  return kind;
}

void look_at_socket(const Descriptor& one, Findings& findings) {
  const SocketKind kind = kind_of(one);
  switch (kind.domain) {
    case -1:  // It has been closed.
    case AF_UNIX:
    case AF_NETLINK:
    case AF_PACKET:
      return;
    case AF_INET:
    case AF_INET6:
      if (kind.protocol == IPPROTO_TCP || kind.type == SOCK_DGRAM || kind.type == SOCK_RAW) return;
      findings.push_back({true,
                          one.text() + " of IP protocol " + std::to_string(kind.protocol) +
                              ", which CRIU does not move",
                          "make the program use TCP or UDP (MPTCP: mptcp.enabled=0)"});
      return;
    default:
      findings.push_back({true,
                          one.text() + " of address family " + std::to_string(kind.domain) +
                              ", which CRIU does not move",
                          "end what uses it"});
  }
}

}  // namespace

void find_in_descriptors(const std::vector<TreeProcess>& tree, Findings& findings) {
  const std::vector<Descriptor> all = descriptors_of(tree);
  std::set<int> terminals;
  for (const Descriptor& one : all) {
    if (one.target.ends_with("/ptmx")) terminals.insert(terminal_of(one));
  }
  for (const Descriptor& one : all) {
    if (one.target.starts_with("socket:")) {
      look_at_socket(one, findings);
      continue;
    }
    if (one.target.starts_with("anon_inode:")) {
      look_at_anonymous(one, findings);
      continue;
    }
    struct stat facts {};
    if (::stat(one.path("fd").c_str(), &facts) != 0) continue;
    if (S_ISCHR(facts.st_mode) || S_ISBLK(facts.st_mode)) {
      look_at_device(one, facts, terminals, findings);
    } else if (S_ISREG(facts.st_mode) && facts.st_nlink == 0 &&
               !one.target.starts_with("/memfd:")) {
      findings.push_back({false, one.text() + ", which goes along while the tree stands", ""});
    }
  }
}

bool has_internet_sockets(const std::vector<TreeProcess>& tree) {
  const std::vector<Descriptor> all = descriptors_of(tree);
  return std::any_of(all.begin(), all.end(), [](const Descriptor& one) {
    if (!one.target.starts_with("socket:")) return false;
    const int domain = kind_of(one).domain;
    return domain == AF_INET || domain == AF_INET6;
  });
}

}  // namespace migrate::containers
