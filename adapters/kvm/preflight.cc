#include "adapters/kvm/preflight.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "adapters/kvm/kvm_call.hpp"
#include "adapters/kvm/memory_room.hpp"
#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/trial_vm.hpp"
#include "adapters/kvm/vcpu_state.hpp"

namespace migrate::kvm {
namespace {

using Faults = std::vector<std::string>;

void check_counts(int kvm_fd, const KvmMachine& machine, const CpuModel& model, Faults& faults) {
  const int vcpus_max = extension(kvm_fd, KVM_CAP_MAX_VCPUS);
  if (vcpus_max > 0 && machine.vcpus > static_cast<std::uint32_t>(vcpus_max)) {
    faults.push_back("it has " + std::to_string(machine.vcpus) + " vCPUs, and KVM here allows " +
                     std::to_string(vcpus_max));
  }
  const int slots_max = extension(kvm_fd, KVM_CAP_NR_MEMSLOTS);
  if (slots_max > 0 && machine.slots.size() > static_cast<std::size_t>(slots_max)) {
    faults.push_back("it has " + std::to_string(machine.slots.size()) +
                     " memory slots, and KVM here allows " + std::to_string(slots_max));
  }
  if (model.vcpus.size() != machine.vcpus) {
    faults.push_back("its CPU model is for " + std::to_string(model.vcpus.size()) + " vCPUs, not " +
                     std::to_string(machine.vcpus));
  }
}

void check_tsc(const TrialVm& trial, const CpuModel& model, Faults& faults) {
  const std::uint32_t here = trial.tsc_khz();
  if (model.tsc_khz == 0 || here == 0 || same_frequency(model.tsc_khz, here)) return;
  if (extension(trial.vm_fd(), KVM_CAP_TSC_CONTROL) > 0) return;
  faults.push_back("its TSC runs at " + std::to_string(model.tsc_khz / 1000) +
                   " MHz, here it runs at " + std::to_string(here / 1000) +
                   " MHz and cannot be scaled");
}

void check_devices(const TrialVm& trial, const KvmMachine& machine, Faults& faults) {
  if (!machine.pit) return;
  kvm_pit_config config{};
  if (!call(trial.vm_fd(), KVM_CREATE_PIT2, &config, "KVM_CREATE_PIT2")) {
    faults.push_back("it has an in-kernel PIT, which KVM here does not offer");
  }
}

/// The trial's vCPU is given the guest's CPUID, so that it has the MSRs the guest's would have.
void check_vcpu(const TrialVm& trial, const CpuModel& model, Faults& faults) {
  if (model.vcpus.empty()) return;
  if (Status given = set_vcpu_cpuid(trial.vcpu_fd(), model.vcpus.front()); !given) {
    faults.push_back("its CPUID is refused (" + given.error().to_text() + ")");
    return;
  }
  std::vector<kvm_msr_entry> values;
  std::vector<std::uint32_t> missing;
  if (Status read = read_msrs(trial.vcpu_fd(), model.in_use, values, missing); !read) {
    faults.push_back(read.error().to_text());
  }
  if (!missing.empty()) {
    faults.push_back("it uses MSRs that KVM here does not have: " + msr_list(missing));
  }
  const std::size_t xsave_bytes = vcpu_caps(trial.vm_fd(), false).xsave_bytes;
  if (model.xsave_bytes > xsave_bytes) {
    faults.push_back("its XSAVE area has " + std::to_string(model.xsave_bytes) +
                     " bytes, here it may have " + std::to_string(xsave_bytes));
  }
}

Status refusal(const Faults& faults) {
  if (faults.empty()) return {};
  std::string text = "this host cannot take the guest: ";
  for (std::size_t i = 0; i < faults.size(); ++i) text += (i == 0 ? "" : "; ") + faults[i];
  return make_error(ErrorCode::kIncompatible, std::move(text))
      .advise(
          "choose a target like the source, or give the guest a processor model that both hosts "
          "have and start it anew");
}

}  // namespace

bool same_frequency(std::uint32_t a_khz, std::uint32_t b_khz) {
  const std::uint64_t difference = a_khz > b_khz ? a_khz - b_khz : b_khz - a_khz;
  return difference * 1'000'000 <= std::uint64_t{std::max(a_khz, b_khz)} * kTscTolerancePpm;
}

Result<PreflightResult> preflight(int kvm_fd, const KvmMachine& machine, const CpuModel& model,
                                  std::uint64_t huge_page_bytes) {
  Faults faults;
  check_counts(kvm_fd, machine, model, faults);
  MIGRATE_ASSIGN(const Cpuid here, supported_cpuid(kvm_fd));
  // vCPUs of one guest have the same features: the first stands for all.
  if (!model.vcpus.empty()) {
    for (std::string& fault : cpuid_faults(model.vcpus.front(), model.supported, here)) {
      faults.push_back(std::move(fault));
    }
  }
  auto trial = TrialVm::create(kvm_fd, machine.irqchip);
  if (!trial) {
    faults.push_back("no VM can be made (" + trial.error().to_text() + ")");
    MIGRATE_TRY(refusal(faults));
  }
  check_tsc(*trial, model, faults);
  check_devices(*trial, machine, faults);
  check_vcpu(*trial, model, faults);
  MIGRATE_TRY(refusal(faults));
  MIGRATE_TRY(check_memory_room(machine, memory_room(), huge_page_bytes));
  return PreflightResult{trial->tsc_khz()};
}

}  // namespace migrate::kvm
