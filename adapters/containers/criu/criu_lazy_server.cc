#include "adapters/containers/criu/criu_lazy_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

namespace migrate::containers {
namespace {

constexpr std::uint32_t kClose = 0x1023;

Error failed(std::uint16_t port) {
  return make_errno_error(
             ErrorCode::kConnectFailed, errno,
             "cannot tell CRIU, on port " + std::to_string(port) + " of 127.0.0.1, to end")
      .advise("see that the loopback interface is up (ip link set lo up)");
}

}  // namespace

Result<Fd> close_lazy_server(std::uint16_t port, const CriuVersion& version) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  // Answered by this host's kernel at once, whatever CRIU does; not at all where the interface is
  // down.
  constexpr timeval kPatience{5, 0};
  if (!socket ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience) != 0 ||
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return failed(port);
  }
  std::array<std::byte, 32> message{};
  std::memcpy(message.data(), &kClose, sizeof kClose);
  const std::size_t size = lazy_message_size(version);
  if (::send(socket.get(), message.data(), size, MSG_NOSIGNAL) != static_cast<ssize_t>(size)) {
    return failed(port);
  }
  // It answers, and waits for this end; the answer itself, held back for 200 ms to be sent with
  // more, nobody waits for.
  if (::shutdown(socket.get(), SHUT_WR) != 0) return failed(port);
  return socket;
}

}  // namespace migrate::containers
