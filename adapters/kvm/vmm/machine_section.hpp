// The VMM's part of a guest's description: from what a target makes the same machine.
#pragma once

#include <vector>

#include "adapters/kvm/vmm/vmm_config.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// "vmm.machine" of a demo guest, "vmm.linux" of a Linux, and "vmm.cards" where it is known what
/// their network cards are reached by. The configuration is complete.
[[nodiscard]] std::vector<GuestDescription::Property> encode_machine(const VmmConfig& config);

/// Back from them; of disks and network cards what moves, without this host's files and
/// taps. kProtocol with the byte offset when malformed, kIncompatible when it is another VMM's.
[[nodiscard]] Result<VmmConfig> decode_machine(const GuestDescription& description);

}  // namespace migrate::vmm
