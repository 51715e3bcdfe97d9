// Brings the vCPUs of a Linux guest to where the kernel begins.
#pragma once

#include <cstdint>

#include "adapters/kvm/vmm/machine.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Before they have run, once.
Status set_linux_cpuids(Machine& machine);
/// Of fresh vCPUs the first one enters the kernel; the others wait, in KVM, until it starts them.
Status enter_linux(const Machine& machine, std::uint64_t kernel_address);

}  // namespace migrate::vmm
