#include "adapters/kvm/rehearsal.hpp"

#include <algorithm>
#include <cstdint>
#include <thread>

#include "adapters/kvm/state_order.hpp"
#include "adapters/kvm/trial_vm.hpp"
#include "adapters/kvm/vcpu_caps.hpp"
#include "adapters/kvm/vcpu_state.hpp"
#include "adapters/kvm/vm_state.hpp"

namespace migrate::kvm {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

Result<std::chrono::nanoseconds> rehearse_load(int kvm_fd, bool irqchip, const CpuModel& model) {
  MIGRATE_ASSIGN(const TrialVm trial, TrialVm::create(kvm_fd, irqchip));
  MIGRATE_TRY(set_vcpu_cpuid(trial.vcpu_fd(), model.vcpus.front()));
  const VmParts vm{trial.vm_fd(), irqchip, false};
  LoadContext context;
  context.caps = vcpu_caps(trial.vm_fd(), irqchip);
  VmState vm_state;
  VcpuState vcpu;
  reserve(vcpu, context.caps, model.msrs.size());
  std::vector<std::uint32_t> unreadable;
  for (const Part part : save_order()) {
    MIGRATE_TRY(of_vm(part)
                    ? save_part(part, vm, vm_state)
                    : save_part(part, trial.vcpu_fd(), context.caps, model.msrs, vcpu, unreadable));
  }
  context.source_clock = vm_state.clock;
  LoadNotes notes;
  std::chrono::nanoseconds of_vm_parts{0};
  std::chrono::nanoseconds of_vcpu{0};
  for (const Part part : load_order()) {
    const auto begin = Clock::now();
    MIGRATE_TRY(of_vm(part) ? load_part(part, vm, vm_state, context.target_clock)
                            : load_part(part, trial.vcpu_fd(), context, vcpu, notes));
    (of_vm(part) ? of_vm_parts : of_vcpu) += Clock::now() - begin;
  }
  const std::size_t processors = std::max(1u, std::thread::hardware_concurrency());
  const auto turns = static_cast<std::int64_t>((model.vcpus.size() + processors - 1) / processors);
  return of_vm_parts + of_vcpu * turns;
}

}  // namespace migrate::kvm
