// Fills the demo guest's data pages, on all cores.
#pragma once

#include <string>

#include "adapters/kvm/vmm/demo_guest/layout.hpp"
#include "adapters/kvm/vmm/guest_memory.hpp"

namespace migrate::vmm {

/// Fresh memory only: what is to be zero is not touched. `file` is read for Fill::kFile, and its
/// pages' hashes written to the plan's table.
Status fill_demo_memory(const GuestMemory& memory, const demo::ControlBlock& plan,
                        const std::string& file);

}  // namespace migrate::vmm
