// What a vCPU needs first: its page tables, and what it runs and has its stack and tables in.
#pragma once

#include "adapters/kvm/vmm/devices/first_pages.hpp"
#include "adapters/kvm/vmm/devices/guest_ram.hpp"

namespace migrate::vmm {

/// Of a vCPU in long mode; of another, or where KVM does not tell, nothing. While it stands.
void add_first_pages(int vcpu_fd, const GuestRam& ram, FirstPages& pages);

}  // namespace migrate::vmm
