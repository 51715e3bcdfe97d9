// MacAddress: an Ethernet address.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "migrate/result.hpp"

namespace migrate::vmm {

struct MacAddress {
  std::array<std::uint8_t, 6> bytes{};
  friend bool operator==(const MacAddress&, const MacAddress&) = default;
};

/// "52:54:00:12:34:56". kInvalidArgument for anything else, for the address of nobody and for those
/// of groups.
[[nodiscard]] Result<MacAddress> parse_mac(std::string_view text);
[[nodiscard]] std::string to_text(const MacAddress& mac);

}  // namespace migrate::vmm
