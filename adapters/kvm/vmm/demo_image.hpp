// Puts the demo guest into fresh memory: program, page tables, plan, and what its pages hold.
#pragma once

#include "adapters/kvm/vmm/demo_plan.hpp"
#include "adapters/kvm/vmm/guest_memory.hpp"

namespace migrate::vmm {

/// Writes all the guest needs to begin. Pages that begin as zero are not touched. `file` is read
/// for Fill::kFile; kInvalidArgument when it is larger than the guest's memory.
Status load_demo_guest(const GuestMemory& memory, const demo::ControlBlock& plan,
                       const std::string& file);

/// Sets a vCPU's registers so that it begins the program: long mode at CPL 3, I/O allowed.
Status set_demo_registers(int vcpu_fd, std::uint32_t id);

}  // namespace migrate::vmm
