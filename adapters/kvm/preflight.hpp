// Whether this host can take a guest, asked before anything is built.
#pragma once

#include "adapters/kvm/cpu_model.hpp"
#include "adapters/kvm/trial_vm.hpp"
#include "migrate/kvm.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

/// TSC frequencies as near as this are taken for equal: 250 parts in a million, as KVM does by
/// default (its parameter tsc_tolerance_ppm).
inline constexpr std::uint32_t kTscTolerancePpm = 250;
[[nodiscard]] bool same_frequency(std::uint32_t a_khz, std::uint32_t b_khz);

struct PreflightResult {
  std::uint32_t host_tsc_khz = 0;
  /// What was asked. Ending it takes the kernel 5 to 15 ms: the caller's, to end when nobody waits.
  TrialVm trial;
};

/// kIncompatible with everything that stands in the way; kNoMemory, and what else
/// check_memory_room() says. `huge_page_bytes` as in KvmTargetOptions. Touches nothing of the
/// guest.
[[nodiscard]] Result<PreflightResult> preflight(int kvm_fd, const KvmMachine& machine,
                                                const CpuModel& model,
                                                std::uint64_t huge_page_bytes = 0);

}  // namespace migrate::kvm
