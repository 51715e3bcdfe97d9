#include "endpoint.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <charconv>
#include <cstdint>
#include <memory>

namespace migrate::tool {
namespace {

Error bad_endpoint(std::string_view text, const std::string& why) {
  return make_error(ErrorCode::kInvalidArgument, "'" + std::string(text) + "' " + why)
      .advise("give HOST:PORT, such as 127.0.0.1:4444 or [::1]:4444");
}

bool is_port(std::string_view text) {
  std::uint16_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

bool is_loopback(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return (ntohl(v4.sin_addr.s_addr) >> 24) == IN_LOOPBACKNET;
  }
  if (address.sa_family != AF_INET6) return false;
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(&v6)) return v6.s6_addr[12] == IN_LOOPBACKNET;
  return IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace

std::string Endpoint::text() const {
  return host.find(':') == std::string::npos ? host + ":" + port : "[" + host + "]:" + port;
}

Result<Endpoint> parse_endpoint(std::string_view text) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad_endpoint(text, "has no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (!is_port(port)) return bad_endpoint(text, "has no port number from 0 to 65535");
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad_endpoint(text, "is an IPv6 address without brackets");
  }
  if (host.empty()) return bad_endpoint(text, "names no host");
  return Endpoint{std::string(host), std::string(port)};
}

Status require_loopback(const Endpoint& endpoint) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(endpoint.host.c_str(), endpoint.port.c_str(), &hints, &found);
  if (failure != 0) {
    return make_error(ErrorCode::kConnectFailed,
                      "cannot resolve '" + endpoint.host + "': " + gai_strerror(failure))
        .advise("check the name, or give an address");
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  for (const addrinfo* entry = addresses.get(); entry != nullptr; entry = entry->ai_next) {
    if (is_loopback(*entry->ai_addr)) continue;
    return make_error(ErrorCode::kInvalidArgument,
                      endpoint.text() +
                          " is beyond loopback, and plain TCP is neither encrypted "
                          "nor authenticated")
        .advise(
            "give --tls-cert, --tls-key and --tls-ca, or --tls-psk, on both sides (see `migrate "
            "keygen`); --insecure is for networks that are trusted");
  }
  return {};
}

}  // namespace migrate::tool
