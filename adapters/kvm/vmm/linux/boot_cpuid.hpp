// What a Linux guest wants of CPUID beside what KVM says it supports.
#pragma once

#include <cstdint>
#include <span>

#include "adapters/kvm/vmm/kvm_api.hpp"

namespace migrate::vmm {

/// Changes the entries of KVM_GET_SUPPORTED_CPUID for one vCPU. KVM leaves to the VMM to say that
/// there is a hypervisor (without which Linux looks for no KVM clock, and there is no other clock
/// here), that the local APIC has a deadline timer (`tsc_deadline`: KVM_CAP_TSC_DEADLINE_TIMER;
/// else Linux measures the timer against a PIT that is not there), and which APIC id the vCPU has.
void set_linux_cpuid(std::span<kvm_cpuid_entry2> entries, std::uint32_t vcpu, bool tsc_deadline);

}  // namespace migrate::vmm
