// MacAddress: an Ethernet address.
#pragma once

#include "migrate/net_address.hpp"

namespace migrate::vmm {

using migrate::MacAddress;
using migrate::parse_mac;
using migrate::to_text;

}  // namespace migrate::vmm
