// TrialVm: a VM that is made and thrown away, to ask KVM what only a vCPU answers.
#pragma once

#include <cstdint>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

class TrialVm {
 public:
  /// A VM without memory and with one vCPU; about 3 ms.
  static Result<TrialVm> create(int kvm_fd, bool irqchip);

  [[nodiscard]] int vm_fd() const { return vm_.get(); }
  [[nodiscard]] int vcpu_fd() const { return vcpu_.get(); }
  /// The host's TSC frequency; 0 where KVM does not tell.
  [[nodiscard]] std::uint32_t tsc_khz() const;

 private:
  TrialVm(Fd vm, Fd vcpu) : vm_(std::move(vm)), vcpu_(std::move(vcpu)) {}

  Fd vm_;
  Fd vcpu_;
};

}  // namespace migrate::kvm
