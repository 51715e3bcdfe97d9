#include "adapters/kvm/preflight.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "adapters/kvm/arch_capabilities.hpp"
#include "adapters/kvm/kvm_call.hpp"
#include "adapters/kvm/memory_room.hpp"
#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/trial_vm.hpp"
#include "adapters/kvm/vcpu_state.hpp"

namespace migrate::kvm {
namespace {

using Faults = std::vector<Incompatibility>;

constexpr const char* kOtherTarget = "choose a target like the source";
constexpr const char* kBaseline =
    "choose a target whose processor has it, or start the guest with a baseline that both hosts "
    "can "
    "give (migrate doctor --cpu-baseline)";
constexpr const char* kNewerKernel = "choose a target with the source's kernel, or a newer one";

std::string mhz(std::uint32_t khz) { return std::to_string(khz / 1000) + " MHz"; }

void check_counts(int kvm_fd, const KvmMachine& machine, const CpuModel& model, Faults& faults) {
  const auto check = [&](const char* what, std::size_t count, int capability) {
    const int most = extension(kvm_fd, capability);
    if (most <= 0 || count <= static_cast<std::size_t>(most)) return;
    faults.push_back({what, std::to_string(count), std::to_string(most) + " at most",
                      "choose a target whose KVM allows more"});
  };
  check("vCPUs", machine.vcpus, KVM_CAP_MAX_VCPUS);
  check("memory slots", machine.slots.size(), KVM_CAP_NR_MEMSLOTS);
  if (model.vcpus.size() != machine.vcpus) {
    faults.push_back(
        {"CPU model",
         std::to_string(model.vcpus.size()) + " vCPUs in it, not " + std::to_string(machine.vcpus),
         {},
         "install the same version on both hosts"});
  }
}

void check_tsc(const TrialVm& trial, const CpuModel& model, Faults& faults) {
  const std::uint32_t here = trial.tsc_khz();
  if (model.tsc_khz == 0 || here == 0 || same_frequency(model.tsc_khz, here)) return;
  if (extension(trial.vm_fd(), KVM_CAP_TSC_CONTROL) > 0) return;
  faults.push_back({"TSC frequency", mhz(model.tsc_khz), mhz(here) + ", which cannot be scaled",
                    "choose a target with the same frequency, or with TSC scaling"});
}

void check_devices(const TrialVm& trial, const KvmMachine& machine, Faults& faults) {
  if (!machine.pit) return;
  kvm_pit_config config{};
  if (!call(trial.vm_fd(), KVM_CREATE_PIT2, &config, "KVM_CREATE_PIT2")) {
    faults.push_back({"in-kernel PIT", "one", "not offered by KVM", kNewerKernel});
  }
}

/// MSRs that say what the processor has: the guest was told, and must find it here.
void check_feature_msrs(const TrialVm& trial, const CpuModel& model,
                        std::span<const kvm_msr_entry> here, Faults& faults) {
  std::vector<kvm_msr_entry> refused;
  if (Status written = write_msrs(trial.vcpu_fd(), model.feature_msrs, refused); !written) {
    faults.push_back({"feature MSRs", {}, written.error().to_text(), kOtherTarget});
    return;
  }
  for (const kvm_msr_entry& entry : refused) {
    const auto lost = lost_msrs(trial.vcpu_fd(), {&entry, 1});
    if (lost && lost->empty()) continue;
    faults.push_back({"MSR " + msr_list({&entry.index, 1}), hex(entry.data),
                      "a processor that cannot have it", kBaseline});
  }
  const kvm_msr_entry* told = find_msr(model.feature_msrs, kMsrArchCapabilities);
  if (told == nullptr || told->data == 0) return;
  const kvm_msr_entry* offered = find_msr(here, kMsrArchCapabilities);
  const std::string missing =
      missing_arch_capabilities(told->data, offered == nullptr ? 0 : offered->data);
  // KVM takes any value of this one.
  if (!missing.empty()) faults.push_back({"IA32_ARCH_CAPABILITIES", missing, "missing", kBaseline});
}

/// The trial's vCPU is given the guest's CPUID, so that it has the MSRs the guest's would have.
void check_vcpu(const TrialVm& trial, const CpuModel& model,
                std::span<const kvm_msr_entry> feature_msrs_here, Faults& faults) {
  if (model.vcpus.empty()) return;
  if (Status given = set_vcpu_cpuid(trial.vcpu_fd(), model.vcpus.front()); !given) {
    faults.push_back({"CPUID", {}, given.error().to_text(), kBaseline});
    return;
  }
  std::vector<kvm_msr_entry> values;
  std::vector<std::uint32_t> missing;
  if (Status read = read_msrs(trial.vcpu_fd(), model.in_use, values, missing); !read) {
    faults.push_back({"MSRs", {}, read.error().to_text(), kOtherTarget});
  }
  if (!missing.empty()) {
    faults.push_back({"MSRs in use", msr_list(missing), "missing", kNewerKernel});
  }
  check_feature_msrs(trial, model, feature_msrs_here, faults);
  const std::size_t xsave_bytes = vcpu_caps(trial.vm_fd(), false).xsave_bytes;
  if (model.xsave_bytes > xsave_bytes) {
    faults.push_back({"XSAVE area", std::to_string(model.xsave_bytes) + " bytes",
                      std::to_string(xsave_bytes) + " at most", kBaseline});
  }
}

Status refusal(const Faults& faults) {
  if (faults.empty()) return {};
  return incompatible(faults);
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
    for (Incompatibility& fault : cpuid_faults(model.vcpus.front(), model.supported, here)) {
      faults.push_back(std::move(fault));
    }
  }
  auto trial = TrialVm::create(kvm_fd, machine.irqchip);
  if (!trial) {
    faults.push_back({"virtual machines", {}, trial.error().to_text(), "see migrate doctor"});
    MIGRATE_TRY(refusal(faults));
  }
  check_tsc(*trial, model, faults);
  check_devices(*trial, machine, faults);
  MIGRATE_ASSIGN(const auto feature_msrs_here, feature_msrs(kvm_fd));
  check_vcpu(*trial, model, feature_msrs_here, faults);
  if (Status room = check_memory_room(machine, memory_room(), huge_page_bytes); !room) {
    // Alone it keeps its own code.
    if (faults.empty()) return std::move(room).error();
    faults.push_back({"memory", {}, room.error().message, room.error().remedy});
  }
  MIGRATE_TRY(refusal(faults));
  const std::uint32_t tsc_khz = trial->tsc_khz();
  return PreflightResult{tsc_khz, *std::move(trial)};
}

}  // namespace migrate::kvm
