#include "adapters/kvm/vcpu_caps.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "adapters/kvm/kvm_call.hpp"

namespace migrate::kvm {
namespace {

bool enable(int vm_fd, std::uint32_t capability) {
  if (extension(vm_fd, static_cast<int>(capability)) == 0) return false;
  kvm_enable_cap request{};
  request.cap = capability;
  request.args[0] = 1;
  return ::ioctl(vm_fd, KVM_ENABLE_CAP, &request) == 0;
}

}  // namespace

VcpuCaps vcpu_caps(int vm_fd, bool lapic) {
  VcpuCaps caps;
  if (const int bytes = extension(vm_fd, KVM_CAP_XSAVE2); bytes > 0) {
    caps.xsave2 = true;
    caps.xsave_bytes = std::max(abi::kXsaveBytesMin, static_cast<std::size_t>(bytes));
  }
  caps.xsave = extension(vm_fd, KVM_CAP_XSAVE) > 0;
  caps.xcrs = extension(vm_fd, KVM_CAP_XCRS) > 0;
  caps.debugregs = extension(vm_fd, KVM_CAP_DEBUGREGS) > 0;
  caps.sregs2 = extension(vm_fd, KVM_CAP_SREGS2) > 0;
  if (const int bytes = extension(vm_fd, KVM_CAP_NESTED_STATE); bytes > 0) {
    caps.nested_bytes = std::max(sizeof(kvm_nested_state), static_cast<std::size_t>(bytes));
  }
  caps.get_tsc_khz = extension(vm_fd, KVM_CAP_GET_TSC_KHZ) > 0;
  caps.tsc_control = extension(vm_fd, KVM_CAP_TSC_CONTROL) > 0;
  caps.kvmclock_ctrl = extension(vm_fd, KVM_CAP_KVMCLOCK_CTRL) > 0;
  caps.lapic = lapic;
  caps.mce = extension(vm_fd, KVM_CAP_MCE) > 0;
  caps.one_regs = extension(vm_fd, KVM_CAP_ONE_REG) > 0;
  return caps;
}

void enable_whole_events(int vm_fd, VcpuCaps& caps) {
  caps.exception_payload = enable(vm_fd, KVM_CAP_EXCEPTION_PAYLOAD);
  caps.triple_fault = enable(vm_fd, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
}

}  // namespace migrate::kvm
