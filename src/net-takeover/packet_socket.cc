#include "net-takeover/packet_socket.hpp"

#include <linux/if_packet.h>
#include <sys/socket.h>

#include <cerrno>

#include "net-takeover/frames.hpp"

namespace migrate::takeover {

Result<PacketSocket> PacketSocket::open(const LinkFacts& link) {
  if (!link.ethernet) {
    return make_error(ErrorCode::kUnsupported, "network interface '" + link.name +
                                                   "' is no Ethernet: it has no neighbours "
                                                   "that could be told")
        .advise("name the Ethernet interface or bridge through which the guest is reached");
  }
  if (link.mtu < kPayloadBytesMax) {
    return make_error(ErrorCode::kUnsupported, "network interface '" + link.name +
                                                   "' takes frames of " + std::to_string(link.mtu) +
                                                   " bytes at most, and an announcement has " +
                                                   std::to_string(kPayloadBytesMax))
        .advise("`ip link set " + link.name + " mtu 1500`");
  }
  // Protocol 0: no frame is ever delivered to it.
  Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd && (errno == EPERM || errno == EACCES)) {
    return make_errno_error(ErrorCode::kPermission, errno,
                            "cannot announce a guest on '" + link.name + "'")
        .advise("run as root or with CAP_NET_RAW (setcap cap_net_raw,cap_net_admin+ep)");
  }
  if (!fd) {
    return make_errno_error(ErrorCode::kIo, errno,
                            "cannot announce a guest on '" + link.name + "'");
  }
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = link.index;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return make_errno_error(ErrorCode::kIo, errno,
                            "cannot announce a guest on '" + link.name + "'");
  }
  return PacketSocket(std::move(fd), link.name);
}

Status PacketSocket::send(std::span<const std::byte> frame) {
  ssize_t sent = ::send(fd_.get(), frame.data(), frame.size(), 0);
  // An interface that went down left its news here; it may be up again.
  if (sent < 0 && (errno == ENETDOWN || errno == EINTR)) {
    sent = ::send(fd_.get(), frame.data(), frame.size(), 0);
  }
  if (sent == static_cast<ssize_t>(frame.size())) return {};
  const int failure = sent < 0 ? errno : EIO;
  const bool gone = failure == ENXIO || failure == ENODEV || failure == ENETDOWN;
  return make_errno_error(gone ? ErrorCode::kNotFound : ErrorCode::kIo, failure,
                          "cannot send on '" + name_ + "'")
      .advise(failure == ENETDOWN ? "`ip link set " + name_ + " up`" : "see `ip -s link`");
}

}  // namespace migrate::takeover
