// VcpuCaps: what the kernel offers a VM's vCPUs, as far as their state is concerned.
#pragma once

#include <cstddef>

#include "adapters/kvm/kvm_abi.hpp"

namespace migrate::kvm {

struct VcpuCaps {
  std::size_t xsave_bytes = abi::kXsaveBytesMin;
  bool xsave2 = false;
  bool xsave = false;
  bool xcrs = false;
  bool debugregs = false;
  bool sregs2 = false;
  std::size_t nested_bytes = 0;  ///< 0: no guests of guests.
  bool get_tsc_khz = false;
  bool tsc_control = false;  ///< The TSC's frequency can be set.
  bool kvmclock_ctrl = false;
  bool lapic = false;  ///< The vCPUs have in-kernel LAPICs.
  bool mce = false;
  bool one_regs = false;
  bool exception_payload = false;  ///< Turned on by enable_whole_events().
  bool triple_fault = false;       ///< Likewise.
};

[[nodiscard]] VcpuCaps vcpu_caps(int vm_fd, bool lapic);

/// Turns on what makes KVM_GET_VCPU_EVENTS tell all that is pending, where the kernel has it: an
/// exception with its payload (else reading events writes CR2 and DR6, after those have been read)
/// and a triple fault (else it is lost). Both only change what is read and may be turned on at any
/// time.
void enable_whole_events(int vm_fd, VcpuCaps& caps);

}  // namespace migrate::kvm
