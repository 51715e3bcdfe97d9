#include "adapters/containers/network/port_delivery.hpp"

#include <linux/if_packet.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "adapters/containers/network/network_space.hpp"

namespace migrate::containers {
namespace {

/// Less than a receiver's backlog takes, 1000 frames (net.core.netdev_max_backlog), for what is
/// beyond that is dropped unseen; the kernel doubles what it is given, and a small frame counts 2
/// KiB.
constexpr int kQueueBytes = 256 << 10;
/// For a receiver that takes nothing at all.
constexpr int kPatienceMs = 20;

Status bind_to(int fd, int index) {
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = index;
  const int one = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kQueueBytes, sizeof(kQueueBytes));
  if (fd >= 0 && ::setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) == 0 &&
      ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return {};
  }
  return make_errno_error(errno == EPERM ? ErrorCode::kPermission : ErrorCode::kIo, errno,
                          "nothing can be sent on the tree's network interface")
      .advise("run as root");
}

}  // namespace

Result<PortDelivery> PortDelivery::open(int space, int index) {
  Fd fd;
  MIGRATE_TRY(in_network(space, [&] {
    // Protocol 0: it hears nothing.
    fd.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return bind_to(fd.get(), index);
  }));
  return PortDelivery(std::move(fd));
}

bool PortDelivery::send(std::span<const std::byte> frame, const FrameOffload& left) {
  iovec parts[] = {{const_cast<FrameOffload*>(&left), sizeof(left)},
                   {const_cast<std::byte*>(frame.data()), frame.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  ssize_t sent = ::sendmsg(fd_.get(), &message, 0);
  // An interface that was down left its news here; it may be up again.
  if (sent < 0 && (errno == ENETDOWN || errno == EINTR)) sent = ::sendmsg(fd_.get(), &message, 0);
  // Room for more as soon as the receiver has taken some: a burst is longer than its backlog.
  pollfd room{fd_.get(), POLLOUT, 0};
  while (sent < 0 && errno == EAGAIN && ::poll(&room, 1, kPatienceMs) > 0) {
    sent = ::sendmsg(fd_.get(), &message, 0);
  }
  return sent == static_cast<ssize_t>(frame.size() + sizeof(left));
}

}  // namespace migrate::containers
