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

/// An address of one machine, IPv4 or IPv6.
class IpAddress {
 public:
  /// "192.0.2.7" or "2001:db8::7". kInvalidArgument for anything else, names included, and for
  /// addresses that no card can have: unspecified, loopback, multicast and broadcast.
  static Result<IpAddress> parse(std::string_view text);

  [[nodiscard]] bool is_v6() const { return v6_; }
  /// In network order: 4 bytes or 16.
  [[nodiscard]] std::span<const std::uint8_t> bytes() const {
    return std::span(bytes_).first(v6_ ? 16 : 4);
  }
  friend bool operator==(const IpAddress&, const IpAddress&) = default;

 private:
  IpAddress() = default;
  std::array<std::uint8_t, 16> bytes_{};
  bool v6_ = false;
};
[[nodiscard]] std::string to_text(const IpAddress& ip);

/// An 802.1Q VLAN, 1 to 4094, as text; kInvalidArgument otherwise.
[[nodiscard]] Result<std::uint16_t> parse_vlan(std::string_view text);

}  // namespace migrate
