// IpAddress: an address of a guest's network card, of either Internet protocol.
#pragma once

#include "migrate/net_address.hpp"

namespace migrate::vmm {

using migrate::IpAddress;
using migrate::IpFamily;
using migrate::is_usable;
using migrate::parse_ip;
using migrate::to_text;

}  // namespace migrate::vmm
