#include "adapters/containers/network/socket_census.hpp"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>

#include "adapters/containers/network/network_space.hpp"

namespace migrate::containers {
namespace {

constexpr timeval kAnswerTime{5, 0};
/// TCP_NEW_SYN_RECV: of the kernel's, without a name in its headers for programs.
constexpr int kNewSynReceived = 12;

constexpr std::uint32_t bit(int state) { return std::uint32_t{1} << state; }
constexpr std::uint32_t kClosing = bit(TCP_FIN_WAIT1) | bit(TCP_CLOSING) | bit(TCP_LAST_ACK);
constexpr std::uint32_t kUnderWay =
    bit(TCP_SYN_RECV) | bit(kNewSynReceived) | bit(TCP_LISTEN) | kClosing;

Error census_error(int error) {
  return make_errno_error(ErrorCode::kUnsupported, error, "the kernel does not tell of its sockets")
      .advise("use a kernel with CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG");
}

Status for_each_socket(int fd, std::uint8_t family, std::uint32_t states,
                       const std::function<void(const inet_diag_msg&)>& take) {
  struct {
    nlmsghdr header;
    inet_diag_req_v2 body;
  } ask{};
  ask.header.nlmsg_len = sizeof(ask);
  ask.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  ask.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  ask.body.sdiag_family = family;
  ask.body.sdiag_protocol = IPPROTO_TCP;
  ask.body.idiag_states = states;
  if (::send(fd, &ask, sizeof(ask), 0) < 0) return census_error(errno);
  alignas(nlmsghdr) std::array<char, 65536> buffer;
  for (;;) {
    const ssize_t got = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return census_error(errno);
    auto left = static_cast<unsigned>(got);
    for (const auto* part = reinterpret_cast<const nlmsghdr*>(buffer.data()); NLMSG_OK(part, left);
         part = NLMSG_NEXT(part, left)) {
      if (part->nlmsg_type == NLMSG_DONE) return {};
      if (part->nlmsg_type == NLMSG_ERROR) {
        return census_error(-reinterpret_cast<const nlmsgerr*>(NLMSG_DATA(part))->error);
      }
      if (part->nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg))) continue;
      take(*reinterpret_cast<const inet_diag_msg*>(NLMSG_DATA(part)));
    }
  }
}

Status for_each_socket(int fd, std::uint32_t states,
                       const std::function<void(const inet_diag_msg&)>& take) {
  MIGRATE_TRY(for_each_socket(fd, AF_INET, states, take));
  // A kernel without IPv6 has none.
  Status six = for_each_socket(fd, AF_INET6, states, take);
  return six || six.error().sys_errno != ENOENT ? six : Status();
}

}  // namespace

Result<SocketCensus> SocketCensus::open(int space) {
  Fd fd;
  MIGRATE_TRY(in_network(space, [&]() -> Status {
    fd.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!fd) return census_error(errno);
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerTime, sizeof(kAnswerTime));
    return {};
  }));
  return SocketCensus(std::move(fd));
}

Result<TcpUnderWay> SocketCensus::under_way() const {
  TcpUnderWay all;
  MIGRATE_TRY(for_each_socket(fd_.get(), kUnderWay, [&all](const inet_diag_msg& socket) {
    if (socket.idiag_state == TCP_LISTEN) {
      all.waiting += socket.idiag_rqueue;
    } else if ((bit(socket.idiag_state) & kClosing) == 0) {
      ++all.handshakes;
    } else if (socket.idiag_inode == 0) {
      ++all.closing;
    }
  }));
  return all;
}

Result<bool> SocketCensus::has_inner_connection() const {
  bool inner = false;
  MIGRATE_TRY(for_each_socket(fd_.get(), bit(TCP_ESTABLISHED), [&](const inet_diag_msg& socket) {
    inner |=
        std::memcmp(socket.id.idiag_src, socket.id.idiag_dst, sizeof(socket.id.idiag_src)) == 0;
    // 127.0.0.0/8, which has more than one address.
    inner |= socket.idiag_family == AF_INET && ntohl(socket.id.idiag_dst[0]) >> 24 == 127;
  }));
  return inner;
}

}  // namespace migrate::containers
