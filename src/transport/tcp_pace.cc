#include "transport/tcp_pace.hpp"

// The kernel's own header: the C library's tcp_info ends before the delivery rate.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <limits>

namespace migrate {

void set_tcp_pace(int fd, const Pace& pace) noexcept {
  // 64 bits since Linux 4.20; the kernel's own pacer serves it, whatever the queueing discipline.
  const unsigned long rate =
      pace.bytes_per_s == 0 ? std::numeric_limits<unsigned long>::max() : pace.bytes_per_s;
  ::setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate);
  // 0 is the host's default, tcp_notsent_lowat.
  const auto unsent = static_cast<std::uint32_t>(
      std::min<std::size_t>(pace.unsent_max, std::numeric_limits<std::uint32_t>::max()));
  ::setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

LinkState tcp_link_state(int fd) noexcept {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return {};
  // An older kernel fills less, and the rest stays 0.
  LinkState state;
  state.delivered_bytes_per_s = info.tcpi_delivery_rate;
  state.sender_limited = info.tcpi_delivery_rate_app_limited != 0;
  state.round_trip = std::chrono::microseconds(info.tcpi_rtt);
  // All ones until a round trip was measured.
  const bool measured = info.tcpi_min_rtt != std::numeric_limits<std::uint32_t>::max();
  state.round_trip_min = std::chrono::microseconds(measured ? info.tcpi_min_rtt : 0);
  return state;
}

}  // namespace migrate
