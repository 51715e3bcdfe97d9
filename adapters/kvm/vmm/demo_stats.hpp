// Reads the demo guest's counters out of its memory, also while it runs.
#pragma once

#include "adapters/kvm/vmm/guest_memory.hpp"
#include "adapters/kvm/vmm/vmm.hpp"

namespace migrate::vmm {

/// All but cpu_ms. What arrived from a peer is not trusted: counters are numbers to show, nothing
/// is followed. kBusy before the guest's memory has arrived.
[[nodiscard]] Result<GuestStats> read_demo_stats(const GuestMemory& memory,
                                                 const VmmConfig& config);

}  // namespace migrate::vmm
