// FreshCpus: vCPUs and interrupt controllers as they were when the machine was made, to go back to
// when the guest restarts.
#pragma once

#include <cstddef>
#include <vector>

#include "adapters/kvm/vmm/machine.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

class FreshCpus {
 public:
  /// Of a machine with in-kernel interrupt controllers. No vCPU may be in KVM_RUN, here and in
  /// restore().
  static Result<FreshCpus> read(const Machine& machine);
  /// All but the time stamp counters, which go on, and the MSRs that say what a processor has.
  Status restore(const Machine& machine) const;

 private:
  struct Cpu {
    kvm_regs regs{};
    kvm_sregs sregs{};
    kvm_debugregs debug{};
    kvm_xcrs xcrs{};
    kvm_lapic_state lapic{};
    kvm_vcpu_events events{};
    kvm_mp_state mp_state{};
    std::vector<std::byte> xsave;
    std::vector<kvm_msr_entry> msrs;
  };
  static Status read(const Machine& machine, const std::vector<__u32>& msrs, int vcpu_fd, Cpu& cpu);
  static Status restore(int vcpu_fd, const Cpu& cpu);

  std::vector<kvm_irqchip> chips_;
  std::vector<Cpu> cpus_;
};

}  // namespace migrate::vmm
