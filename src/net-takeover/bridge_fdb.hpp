// The forwarding table (FDB) of a Linux bridge on this host.
#pragma once

#include <cstdint>
#include <optional>

#include "migrate/net_address.hpp"
#include "migrate/result.hpp"

namespace migrate::takeover {

/// Frames for `mac` go to the bridge's port `port_index` from now on, as if a frame from it had
/// just come in there: the entry ages and follows later frames. Replaces what the bridge has
/// learned; needs CAP_NET_ADMIN. kNotFound where the port is gone. `vlan` is that of the guest, if
/// its bridge tells VLANs apart.
///
/// An entry of the bridge itself (RTM_NEWNEIGH, NTF_MASTER), because frames that this host sends
/// through its bridge teach that bridge nothing: it learns from what comes in at its ports.
[[nodiscard]] Status set_fdb_entry(int port_index, const MacAddress& mac,
                                   std::optional<std::uint16_t> vlan);

/// kPermission where set_fdb_entry() would be refused for lack of CAP_NET_ADMIN. Changes nothing.
[[nodiscard]] Status check_may_set_fdb();

}  // namespace migrate::takeover
