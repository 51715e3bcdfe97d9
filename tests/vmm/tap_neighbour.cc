#include "tests/vmm/tap_neighbour.hpp"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace migrate::vmm::test {
namespace {

constexpr unsigned kAllProtocols = 0x0003;  // ETH_P_ALL

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error("cannot " + what + ": " + std::strerror(errno));
}

ifreq request_for(const std::string& name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), name.size());
  return request;
}

/// Lest the kernel says something of its own there. Where that cannot be set, it does.
void disable_ipv6(const std::string& name) {
  const Fd setting(
      ::open(("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6").c_str(), O_WRONLY | O_CLOEXEC));
  if (setting) (void)::write(setting.get(), "1", 1);
}

/// One that stays and is up.
void make_tap(const std::string& name) {
  const Fd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request = request_for(name);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (!tun || ::ioctl(tun.get(), TUNSETIFF, &request) != 0 ||
      ::ioctl(tun.get(), TUNSETPERSIST, 1) != 0) {
    fail("make a tap interface");
  }
  disable_ipv6(name);
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  request = request_for(name);
  request.ifr_flags = IFF_UP | IFF_NOARP;
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) fail("set a tap interface up");
}

}  // namespace

OwnNetwork::OwnNetwork() : before_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
  there_ = ::unshare(CLONE_NEWNET) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
}

// Not with a user namespace: the thread stays where it is, and so does what it made.
OwnNetwork::~OwnNetwork() {
  if (there_ && before_) (void)::setns(before_.get(), CLONE_NEWNET);
}

TapNeighbour::TapNeighbour(const std::string& name) : name_(name) {
  make_tap(name);
  socket_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kAllProtocols)));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(kAllProtocols);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(name.c_str()));
  // For all that is answered at once after a pause.
  const int room = 8 << 20;
  (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  if (!socket_ ||
      ::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    fail("listen on a tap interface");
  }
}

bool TapNeighbour::has_carrier() const {
  ethtool_value link{};
  link.cmd = ETHTOOL_GLINK;
  ifreq request = request_for(name_);
  request.ifr_data = reinterpret_cast<char*>(&link);
  if (::ioctl(socket_.get(), SIOCETHTOOL, &request) != 0) fail("ask for a carrier");
  return link.data != 0;
}

// The kernel acts on a carrier in a thread of its own: it shows the interface as running, then lets
// it send, all under the lock that setting flags takes.
void TapNeighbour::wait_until_it_takes_frames() const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (;;) {
    ifreq request = request_for(name_);
    if (::ioctl(socket_.get(), SIOCGIFFLAGS, &request) != 0) fail("ask for flags");
    if ((request.ifr_flags & IFF_RUNNING) != 0) {
      if (::ioctl(socket_.get(), SIOCSIFFLAGS, &request) != 0) fail("set flags");
      return;
    }
    if (std::chrono::steady_clock::now() > deadline) fail("wait for a carrier");
    (void)::poll(nullptr, 0, 1);
  }
}

void TapNeighbour::send(const Bytes& frame) const {
  if (::send(socket_.get(), frame.data(), frame.size(), 0) != static_cast<ssize_t>(frame.size())) {
    fail("send a frame of " + std::to_string(frame.size()) + " bytes");
  }
}

std::optional<Bytes> TapNeighbour::receive(std::chrono::milliseconds patience) const {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    Bytes frame(70'000, '\0');
    sockaddr_ll from{};
    socklen_t from_bytes = sizeof from;
    const ssize_t bytes = ::recvfrom(socket_.get(), frame.data(), frame.size(), MSG_DONTWAIT,
                                     reinterpret_cast<sockaddr*>(&from), &from_bytes);
    if (bytes >= 0 && from.sll_pkttype != PACKET_OUTGOING) {
      frame.resize(static_cast<std::size_t>(bytes));
      // What comes from the guest, and not from this host.
      if (frame.substr(6, 6) == guest_mac_) return frame;
    }
    if (bytes >= 0) continue;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd waits{socket_.get(), POLLIN, 0};
    if (left.count() <= 0 || ::poll(&waits, 1, static_cast<int>(left.count())) < 1) {
      return std::nullopt;
    }
  }
}

}  // namespace migrate::vmm::test
