// What loading a VM's state takes, tried on a VM that is thrown away.
#pragma once

#include <chrono>

#include "adapters/kvm/cpu_model.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

/// The time to load the state of a VM with these vCPUs: that of a trial VM with one of them, saved
/// and loaded back (all MSRs, XSAVE and interrupt controllers as the guest has them), for each vCPU
/// that a thread has to do. About 5 ms; touches no other VM.
[[nodiscard]] Result<std::chrono::nanoseconds> rehearse_load(int kvm_fd, bool irqchip,
                                                             const CpuModel& model);

}  // namespace migrate::kvm
