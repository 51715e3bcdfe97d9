// HOST:PORT as given on the command line and to the control API.
#pragma once

#include <string>
#include <string_view>

#include "migrate/result.hpp"

namespace migrate::tool {

struct Endpoint {
  std::string host;  ///< Name or address; IPv6 without its brackets.
  std::string port;  ///< Decimal, 0..65535.
  [[nodiscard]] std::string text() const;
};

/// "host:4444" or "[::1]:4444"; kInvalidArgument says what is wrong with anything else.
[[nodiscard]] Result<Endpoint> parse_endpoint(std::string_view text);

/// Plain TCP shows a guest's memory to the network and lets anybody on it write there, so it is
/// kept to addresses of this host unless the user insists. kInvalidArgument when one of the
/// addresses of `endpoint` is not a loopback address, kConnectFailed when the name is unknown.
[[nodiscard]] Status require_loopback(const Endpoint& endpoint);

}  // namespace migrate::tool
