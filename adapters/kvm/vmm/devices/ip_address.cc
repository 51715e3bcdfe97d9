#include "adapters/kvm/vmm/devices/ip_address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>

namespace migrate::vmm {
namespace {

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

}  // namespace migrate::vmm
