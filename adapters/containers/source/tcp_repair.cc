#include "adapters/containers/source/tcp_repair.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <string>
#include <utility>

#include "adapters/containers/source/process_tree.hpp"
#include "base/fd.hpp"

namespace migrate::containers {
namespace {

bool is_tcp(int socket) {
  int protocol = 0;
  socklen_t size = sizeof(protocol);
  return ::getsockopt(socket, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
         protocol == IPPROTO_TCP;
}

bool in_repair(int socket) {
  int value = 0;
  socklen_t size = sizeof(value);
  return ::getsockopt(socket, IPPROTO_TCP, TCP_REPAIR, &value, &size) == 0 && value != 0;
}

Result<std::size_t> look(std::span<const pid_t> processes, bool clear) {
  std::size_t found = 0;
  std::optional<Error> failed;
  for (const pid_t pid : processes) {
    const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    for (const int number : numbers_in(proc_path(pid, "fd"))) {
      if (!read_link(proc_path(pid, "fd/" + std::to_string(number))).starts_with("socket:")) {
        continue;
      }
      const Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
      const bool asked = socket.valid();
      if (!asked && (errno == EBADF || errno == ESRCH)) continue;
      constexpr int kOff = 0;
      if (asked && (!is_tcp(socket.get()) || !in_repair(socket.get()))) continue;
      ++found;
      if (asked && (!clear || ::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &kOff,
                                           sizeof(kOff)) == 0)) {
        continue;
      }
      failed = make_errno_error(ErrorCode::kPermission, errno,
                                "descriptor " + std::to_string(number) + " of process " +
                                    std::to_string(pid) + " may stay in TCP_REPAIR")
                   .advise("its connection is lost: end it");
    }
  }
  if (failed) return *std::move(failed);
  return found;
}

}  // namespace

Result<std::size_t> clear_tcp_repair(std::span<const pid_t> processes) {
  return look(processes, true);
}

Result<std::size_t> count_tcp_repair(std::span<const pid_t> processes) {
  return look(processes, false);
}

}  // namespace migrate::containers
