// IpAddress: an address of a guest's network card, of either Internet protocol.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "migrate/result.hpp"

namespace migrate::vmm {

enum class IpFamily : std::uint8_t { kIpv4 = 4, kIpv6 = 6 };

struct IpAddress {
  IpFamily family = IpFamily::kIpv4;
  std::array<std::uint8_t, 16> bytes{};  ///< As on the wire; of IPv4 the first four.
  friend bool operator==(const IpAddress&, const IpAddress&) = default;
};

/// Whether a single machine can have it on a network: not nobody's, a group's, or this host's own.
[[nodiscard]] bool is_usable(const IpAddress& address);
/// "192.0.2.7" or "2001:db8::7". kInvalidArgument for anything else, for a prefix length and for
/// what is not usable.
[[nodiscard]] Result<IpAddress> parse_ip(std::string_view text);
[[nodiscard]] std::string to_text(const IpAddress& address);

}  // namespace migrate::vmm
