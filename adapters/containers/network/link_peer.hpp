// The other end of a veth pair.
#pragma once

#include <string>

#include "migrate/result.hpp"

namespace migrate::containers {

struct LinkPeer {
  int port = 0;       ///< This end's, here.
  int index = 0;      ///< In the namespace that it is in.
  std::string name;   ///< There.
  bool only = false;  ///< No other interface there is up, but loopback.
};

/// `link`: this namespace's end; `space`: a descriptor of the namespace where the other end is.
/// kNotFound without such an interface, kUnsupported where it is none of a pair that leads there.
[[nodiscard]] Result<LinkPeer> find_link_peer(const std::string& link, int space);

}  // namespace migrate::containers
