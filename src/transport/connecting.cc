#include "transport/connecting.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

namespace migrate {

Result<int> connect_socket(int fd, const SocketAddress& address, const std::string& where,
                           const EventFd& interrupt, SteadyDeadline deadline) {
  if (::connect(fd, address.get(), address.length) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  MIGRATE_ASSIGN(const Readiness ready, wait_until_ready(fd, POLLOUT, interrupt, deadline));
  if (ready == Readiness::kInterrupted) {
    return make_error(ErrorCode::kCancelled, "connecting to " + where + " was cancelled");
  }
  if (ready == Readiness::kTimedOut) return ETIMEDOUT;
  int pending = 0;
  socklen_t size = sizeof pending;
  return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &pending, &size) == 0 ? pending : errno;
}

}  // namespace migrate
