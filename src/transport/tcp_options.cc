#include "transport/tcp_options.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <string_view>

namespace migrate {
namespace {

// The engine's own deadlines (30 s for a silent peer by default) come first; the kernel ends what
// is left waiting, such as an idle connection to a host that is gone, after twice that. Its own
// default would be a quarter of an hour (tcp_retries2).
constexpr int kDeadAfterMs = 60'000;
constexpr int kProbeAfterS = 20;
constexpr int kProbeEveryS = 10;
constexpr int kProbes = 4;  // 20 s + 4 * 10 s = 60 s.

// Where BBR is the host's choice it paces loopback too, at half of what the processors could do:
// docs/benchmarks.md, "Congestion control". Reno is in every kernel, without a module.
constexpr std::string_view kWithoutNetwork = "reno";

void set_option(int fd, int level, int name, int value) noexcept {
  ::setsockopt(fd, level, name, &value, sizeof value);
}

Status set_buffer(int fd, int name, int bytes, const char* what) {
  if (bytes == 0) return {};
  if (::setsockopt(fd, SOL_SOCKET, name, &bytes, sizeof bytes) == 0) return {};
  return make_errno_error(ErrorCode::kInvalidArgument, errno,
                          "cannot set the " + std::string(what) + " buffer of a socket to " +
                              std::to_string(bytes) + " bytes");
}

}  // namespace

void set_tcp_options(int fd, const SocketAddress& peer) noexcept {
  if (peer.is_loopback()) {
    ::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kWithoutNetwork.data(), kWithoutNetwork.size());
  }
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, kProbeAfterS);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, kProbeEveryS);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kDeadAfterMs);
}

Status set_buffer_sizes(int fd, const SocketOptions& options) {
  MIGRATE_TRY(set_buffer(fd, SO_SNDBUF, options.send_buffer_bytes, "send"));
  return set_buffer(fd, SO_RCVBUF, options.receive_buffer_bytes, "receive");
}

}  // namespace migrate
