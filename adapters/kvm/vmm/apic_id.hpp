// Which APIC id CPUID tells a vCPU that it has.
#pragma once

#include <cstdint>
#include <span>

#include "adapters/kvm/vmm/kvm_api.hpp"

namespace migrate::vmm {

/// Puts the vCPU's number wherever CPUID tells an APIC id.
inline void set_apic_id(std::span<kvm_cpuid_entry2> entries, std::uint32_t vcpu) {
  for (kvm_cpuid_entry2& entry : entries) {
    switch (entry.function) {
      case 1:
        entry.ebx = (entry.ebx & 0x00ff'ffffu) | vcpu << 24;
        break;
      case 0xb:
      case 0x1f:
        entry.edx = vcpu;
        break;
      case 0x8000'001eu:
        entry.eax = vcpu;
        break;
      default:
        break;
    }
  }
}

}  // namespace migrate::vmm
