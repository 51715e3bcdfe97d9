#include "adapters/kvm/trial_vm.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "adapters/kvm/kvm_call.hpp"

namespace migrate::kvm {

Result<TrialVm> TrialVm::create(int kvm_fd, bool irqchip) {
  MIGRATE_ASSIGN(const int vm, call(kvm_fd, KVM_CREATE_VM, 0UL, "KVM_CREATE_VM"));
  Fd vm_fd(vm);
  if (irqchip) MIGRATE_TRY(call(vm_fd.get(), KVM_CREATE_IRQCHIP, 0UL, "KVM_CREATE_IRQCHIP"));
  MIGRATE_ASSIGN(const int vcpu, call(vm_fd.get(), KVM_CREATE_VCPU, 0UL, "KVM_CREATE_VCPU"));
  return TrialVm(std::move(vm_fd), Fd(vcpu));
}

std::uint32_t TrialVm::tsc_khz() const {
  if (extension(vm_.get(), KVM_CAP_GET_TSC_KHZ) == 0) return 0;
  return static_cast<std::uint32_t>(std::max(0, ::ioctl(vcpu_.get(), KVM_GET_TSC_KHZ, 0)));
}

}  // namespace migrate::kvm
