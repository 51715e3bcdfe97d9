// LinkFacts: what the kernel says of a network interface.
#pragma once

#include <cstdint>
#include <string>

#include "migrate/result.hpp"

namespace migrate::takeover {

struct LinkFacts {
  std::string name;
  int index = 0;
  int bridge = 0;       ///< Index of the bridge it is a port of; 0: of none.
  std::string kind;     ///< "tun", "veth", "bridge", ...; empty for hardware.
  std::string port_of;  ///< What it is a port or member of: "bridge", "bond", "openvswitch", ...
  std::uint32_t mtu = 0;
  bool up = false;
  bool ethernet = false;
  bool vlan_filtering = false;  ///< A bridge that keeps VLANs apart.
};

/// kNotFound for an interface that this network namespace does not have, kInvalidArgument for what
/// cannot be a name.
[[nodiscard]] Result<LinkFacts> link_facts(const std::string& name);
[[nodiscard]] Result<LinkFacts> link_facts(int index);

}  // namespace migrate::takeover
