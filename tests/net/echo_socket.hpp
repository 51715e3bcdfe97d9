// EchoSocket: asks a host for echoes by UDP or ICMP, and hears when they came.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "migrate/result.hpp"
#include "tests/net/probe_log.hpp"

namespace migrate::probe {

enum class EchoKind : std::uint8_t { kUdp, kIcmp };

/// CLOCK_MONOTONIC.
[[nodiscard]] Nanoseconds now();

struct Echo {
  std::uint64_t number = 0;
  Nanoseconds when = 0;  ///< When the kernel had it, by now()'s clock.
};

/// One thread may send while another receives.
class EchoSocket {
 public:
  /// `address` is a numeric IPv4 or IPv6 address; `port` is for UDP.
  static Result<EchoSocket> open(EchoKind kind, const std::string& address, std::uint16_t port);

  [[nodiscard]] int fd() const { return fd_.get(); }
  /// False when the kernel did not take it, as when the target is known to be unreachable.
  bool send(std::uint64_t number);
  /// The next echo of this socket's own probes that is here; does not wait.
  std::optional<Echo> receive();

 private:
  EchoSocket(Fd fd, EchoKind kind, bool ipv6, std::uint64_t session)
      : fd_(std::move(fd)), kind_(kind), ipv6_(ipv6), session_(session) {}
  /// The number in the echo of one of this socket's probes.
  [[nodiscard]] std::optional<std::uint64_t> number_in(std::string_view packet) const;

  Fd fd_;
  EchoKind kind_;
  bool ipv6_;
  std::uint64_t
      session_;  ///< Random: echoes of others' probes, and of earlier runs', are not ours.
};

}  // namespace migrate::probe
