#include "tests/net/echo_socket.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>

namespace migrate::probe {
namespace {

constexpr std::size_t kIcmpHeaderBytes = 8;
constexpr std::size_t kPayloadBytes = 56;  // As ping's: 64 bytes with ICMP's header.
constexpr std::size_t kPacketBytesMax = 2048;
// Of <linux/icmp.h>, which cannot be included beside <netinet/ip_icmp.h>.
constexpr int kIcmpFilter = 1;
// Enough for all that a stopped receiver misses in many seconds.
constexpr int kReceiveBufferBytes = 8 << 20;

Nanoseconds to_ns(const timespec& time) {
  return static_cast<Nanoseconds>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

Nanoseconds read_clock(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return to_ns(time);
}

/// What to add to a CLOCK_REALTIME stamp of just now to have it by now()'s clock. Read anew each
/// time: somebody may set the date.
Nanoseconds realtime_to_monotonic() {
  constexpr Nanoseconds kCloseEnough = 20'000;
  Nanoseconds best_spread = INT64_MAX;
  Nanoseconds best = 0;
  // A thread that loses its processor between two readings reads again.
  for (int attempt = 0; attempt < 5 && best_spread > kCloseEnough; ++attempt) {
    const Nanoseconds before = now();
    const Nanoseconds real = read_clock(CLOCK_REALTIME);
    const Nanoseconds spread = now() - before;
    if (spread < best_spread) {
      best_spread = spread;
      best = before + spread / 2 - real;
    }
  }
  return best;
}

std::uint16_t internet_checksum(std::string_view bytes) {
  std::uint32_t sum = 0;
  for (std::size_t at = 0; at + 1 < bytes.size(); at += 2) {
    std::uint16_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    sum += word;
  }
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

struct Payload {
  std::uint64_t session = 0;
  std::uint64_t number = 0;
};

Result<Fd> connected(EchoKind kind, const std::string& address, std::uint16_t port, bool& ipv6) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    return make_error(ErrorCode::kInvalidArgument, "'" + address + "' is no IP address");
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  ipv6 = found->ai_family == AF_INET6;
  const bool raw = kind == EchoKind::kIcmp;
  const int protocol = !raw ? IPPROTO_UDP : ipv6 ? int{IPPROTO_ICMPV6} : int{IPPROTO_ICMP};
  Fd fd(::socket(found->ai_family, (raw ? SOCK_RAW : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK,
                 protocol));
  if (!fd) {
    return make_errno_error(ErrorCode::kPermission, errno, "cannot open a socket")
        .advise(raw ? "raw sockets, for ICMP, need root" : "");
  }
  if (::connect(fd.get(), found->ai_addr, found->ai_addrlen) != 0) {
    return make_errno_error(ErrorCode::kConnectFailed, errno, "no way to " + address);
  }
  return fd;
}

/// Nothing but echoes wakes the receiver.
bool pass_echoes_only(int fd, bool ipv6) {
  if (!ipv6) {
    const std::uint32_t blocked = ~(1u << ICMP_ECHOREPLY);
    return ::setsockopt(fd, SOL_RAW, kIcmpFilter, &blocked, sizeof blocked) == 0;
  }
  icmp6_filter filter{};
  ICMP6_FILTER_SETBLOCKALL(&filter);
  ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
  return ::setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter) == 0;
}

}  // namespace

Nanoseconds now() { return read_clock(CLOCK_MONOTONIC); }

Result<EchoSocket> EchoSocket::open(EchoKind kind, const std::string& address, std::uint16_t port) {
  bool ipv6 = false;
  MIGRATE_ASSIGN(Fd fd, connected(kind, address, port, ipv6));
  const int on = 1;
  std::uint64_t session = 0;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) != 0 ||
      (kind == EchoKind::kIcmp && !pass_echoes_only(fd.get(), ipv6)) ||
      ::getrandom(&session, sizeof session, 0) != sizeof session) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot set up a socket");
  }
  // More than the default where this process may; without it, a busy machine loses answers here.
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBufferBytes, sizeof(int)) != 0) {
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &kReceiveBufferBytes, sizeof(int));
  }
  return EchoSocket(std::move(fd), kind, ipv6, session);
}

bool EchoSocket::send(std::uint64_t number) {
  std::array<char, kIcmpHeaderBytes + kPayloadBytes> packet{};
  const std::size_t head = kind_ == EchoKind::kIcmp ? kIcmpHeaderBytes : 0;
  const Payload payload{session_, number};
  std::memcpy(packet.data() + head, &payload, sizeof payload);
  const std::string_view bytes(packet.data(), head + kPayloadBytes);
  if (kind_ == EchoKind::kIcmp) {
    icmphdr header{};
    header.type = ipv6_ ? std::uint8_t{ICMP6_ECHO_REQUEST} : std::uint8_t{ICMP_ECHO};
    header.un.echo.id = static_cast<std::uint16_t>(session_);
    header.un.echo.sequence = htons(static_cast<std::uint16_t>(number));
    std::memcpy(packet.data(), &header, sizeof header);
    // Of ICMPv6 the kernel makes it, which knows the addresses that are part of it.
    if (!ipv6_) header.checksum = internet_checksum(bytes);
    std::memcpy(packet.data(), &header, sizeof header);
  }
  return ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

std::optional<std::uint64_t> EchoSocket::number_in(std::string_view packet) const {
  if (kind_ == EchoKind::kIcmp) {
    std::size_t head = kIcmpHeaderBytes;
    // Raw IPv4 sockets are given the IP header, too.
    if (!ipv6_ && !packet.empty()) head += (static_cast<std::uint8_t>(packet[0]) & 0xfu) * 4;
    packet.remove_prefix(std::min(head, packet.size()));
  }
  Payload payload;
  if (packet.size() < sizeof payload) return std::nullopt;
  std::memcpy(&payload, packet.data(), sizeof payload);
  if (payload.session != session_) return std::nullopt;
  return payload.number;
}

std::optional<Echo> EchoSocket::receive() {
  while (true) {
    std::array<char, kPacketBytesMax> packet;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(timespec))> control;
    iovec part{packet.data(), packet.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT);
    if (got < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return std::nullopt;
      // An ICMP error, such as that nobody listens, is told once and is over: that probe is lost.
      continue;
    }
    const auto number = number_in({packet.data(), static_cast<std::size_t>(got)});
    if (!number) continue;
    Echo echo{*number, now()};
    const cmsghdr* stamp = CMSG_FIRSTHDR(&message);
    if (stamp != nullptr && stamp->cmsg_level == SOL_SOCKET &&
        stamp->cmsg_type == SCM_TIMESTAMPNS) {
      timespec time{};
      std::memcpy(&time, CMSG_DATA(stamp), sizeof time);
      echo.when = to_ns(time) + realtime_to_monotonic();
    }
    return echo;
  }
}

}  // namespace migrate::probe
