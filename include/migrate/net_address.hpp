// Addresses of a guest's network card: of Ethernet and of IP.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "migrate/result.hpp"

namespace migrate {

struct MacAddress {
  std::array<std::uint8_t, 6> bytes{};
  friend bool operator==(const MacAddress&, const MacAddress&) = default;
};

/// "52:54:00:12:34:56". kInvalidArgument for anything else, for the address of nobody and for those
/// of groups.
[[nodiscard]] Result<MacAddress> parse_mac(std::string_view text);
[[nodiscard]] std::string to_text(const MacAddress& mac);

enum class IpFamily : std::uint8_t { kIpv4 = 4, kIpv6 = 6 };

struct IpAddress {
  IpFamily family = IpFamily::kIpv4;
  std::array<std::uint8_t, 16> bytes{};  ///< As on the wire; of IPv4 the first four.

  [[nodiscard]] bool is_v6() const { return family == IpFamily::kIpv6; }
  /// 4 of them or 16.
  [[nodiscard]] std::span<const std::uint8_t> octets() const {
    return std::span(bytes).first(is_v6() ? 16 : 4);
  }
  friend bool operator==(const IpAddress&, const IpAddress&) = default;
};

/// Whether a single machine can have it on a network: not nobody's, a group's, or this host's own.
[[nodiscard]] bool is_usable(const IpAddress& address);
/// "192.0.2.7" or "2001:db8::7". kInvalidArgument for anything else, for a prefix length and for
/// what is not usable.
[[nodiscard]] Result<IpAddress> parse_ip(std::string_view text);
[[nodiscard]] std::string to_text(const IpAddress& address);

/// An 802.1Q VLAN, 1 to 4094, as text; kInvalidArgument otherwise.
[[nodiscard]] Result<std::uint16_t> parse_vlan(std::string_view text);

}  // namespace migrate
