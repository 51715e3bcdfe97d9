#include "migrate/net_address.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

namespace migrate {
namespace {

constexpr std::size_t kMacTextBytes = 17;
constexpr std::uint16_t kVlanMax = 4094;  // 0 is no VLAN and 4095 reserved (IEEE 802.1Q).

Error no_card_has(std::string_view text, const std::string& what) {
  return make_error(ErrorCode::kInvalidArgument,
                    "'" + std::string(text) + "' is no address of a machine: " + what)
      .advise("give the guest's own address, such as 192.0.2.7 or 2001:db8::7");
}

std::string why_no_card(std::span<const std::uint8_t> v4_or_v6) {
  const bool zero = std::all_of(v4_or_v6.begin(), v4_or_v6.end(), [](auto b) { return b == 0; });
  if (zero) return "it is the unspecified address";
  const std::uint8_t first = v4_or_v6.front();
  if (v4_or_v6.size() == 4) {
    if (first == 0) return "it is one of \"this network\"";
    if (first == 127) return "it is a loopback address";
    if (first >= 224 && first < 240) return "it is one of a group";
    if (first >= 240) return "it is reserved, or the broadcast address";
    return {};
  }
  if (first == 0xff) return "it is one of a group";
  const bool loopback = v4_or_v6.back() == 1 && std::all_of(v4_or_v6.begin(), v4_or_v6.end() - 1,
                                                            [](auto b) { return b == 0; });
  if (loopback) return "it is the loopback address";
  return {};
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

Result<IpAddress> IpAddress::parse(std::string_view text) {
  const std::string whole(text);
  IpAddress ip;
  ip.v6_ = text.find(':') != std::string_view::npos;
  if (inet_pton(ip.v6_ ? AF_INET6 : AF_INET, whole.c_str(), ip.bytes_.data()) != 1 ||
      whole.find('\0') != std::string::npos) {
    return no_card_has(text, "it is neither IPv4 nor IPv6");
  }
  if (const std::string why = why_no_card(ip.bytes()); !why.empty()) return no_card_has(text, why);
  return ip;
}

std::string to_text(const IpAddress& ip) {
  char text[INET6_ADDRSTRLEN];
  return inet_ntop(ip.is_v6() ? AF_INET6 : AF_INET, ip.bytes().data(), text, sizeof text);
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
