#include "migrate/net_address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>

namespace migrate {
namespace {

constexpr std::size_t kMacTextBytes = 17;
constexpr std::uint16_t kVlanMax = 4094;  // 0 is no VLAN and 4095 reserved (IEEE 802.1Q).

int family_of(const IpAddress& address) {
  return address.family == IpFamily::kIpv4 ? AF_INET : AF_INET6;
}

bool is_usable_ipv6(const IpAddress& address) {
  in6_addr six{};
  std::memcpy(&six, address.bytes.data(), sizeof six);
  return !IN6_IS_ADDR_UNSPECIFIED(&six) && !IN6_IS_ADDR_LOOPBACK(&six) &&
         !IN6_IS_ADDR_MULTICAST(&six) && !IN6_IS_ADDR_V4MAPPED(&six) && !IN6_IS_ADDR_V4COMPAT(&six);
}

}  // namespace

Result<MacAddress> parse_mac(std::string_view text) {
  const auto refuse = [text](const std::string& why) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'" + std::string(text) + "' is no MAC address of a machine: " + why)
        .advise("write it as 52:54:00:12:34:56");
  };
  if (text.size() != kMacTextBytes) return refuse("it is not six numbers");
  MacAddress mac;
  for (std::size_t i = 0; i < mac.bytes.size(); ++i) {
    const char* const first = text.data() + 3 * i;
    const auto [end, error] = std::from_chars(first, first + 2, mac.bytes[i], 16);
    if (error != std::errc() || end != first + 2) return refuse("it is not six numbers");
    if (i > 0 && first[-1] != ':') return refuse("there are no colons between its numbers");
  }
  if ((mac.bytes[0] & 1) != 0) return refuse("it is one of a group");
  if (mac == MacAddress{}) return refuse("it is all zero");
  return mac;
}

std::string to_text(const MacAddress& mac) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : mac.bytes) {
    if (!text.empty()) text += ':';
    text += kDigits[byte >> 4];
    text += kDigits[byte & 0xf];
  }
  return text;
}

bool is_usable(const IpAddress& address) {
  if (address.family == IpFamily::kIpv6) return is_usable_ipv6(address);
  // This network, loopback, groups, and all that was kept for the future (RFC 1122, 3.2.1.3).
  const std::uint8_t first = address.bytes[0];
  return first != 0 && first != 127 && first < 224;
}

Result<IpAddress> parse_ip(std::string_view text) {
  const auto refuse = [text](const std::string& why) {
    return make_error(ErrorCode::kInvalidArgument,
                      "'" + std::string(text) + "' is no IP address of a machine: " + why)
        .advise("write it as 192.0.2.7 or 2001:db8::7, without a prefix length");
  };
  IpAddress address;
  address.family = text.find(':') == std::string_view::npos ? IpFamily::kIpv4 : IpFamily::kIpv6;
  // inet_pton() would not see what comes behind a zero byte.
  if (text.find('\0') != std::string_view::npos) return refuse("it is not understood");
  if (::inet_pton(family_of(address), std::string(text).c_str(), address.bytes.data()) != 1) {
    return refuse("it is not understood");
  }
  if (!is_usable(address)) return refuse("it is nobody's, a group's or a host's own");
  return address;
}

std::string to_text(const IpAddress& address) {
  char text[INET6_ADDRSTRLEN] = {};
  (void)::inet_ntop(family_of(address), address.bytes.data(), text, sizeof text);
  return text;
}

Result<std::uint16_t> parse_vlan(std::string_view text) {
  std::uint16_t vlan = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), vlan);
  if (error != std::errc() || end != text.data() + text.size() || vlan == 0 || vlan > kVlanMax) {
    return make_error(ErrorCode::kInvalidArgument, "'" + std::string(text) + "' is no VLAN")
        .advise("give a number from 1 to " + std::to_string(kVlanMax));
  }
  return vlan;
}

}  // namespace migrate
