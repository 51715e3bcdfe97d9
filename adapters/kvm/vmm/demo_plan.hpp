// The demo guest's plan: which pages its vCPUs work on and check, laid out from a VmmConfig. Pure.
#pragma once

#include "adapters/kvm/vmm/vmm.hpp"

namespace migrate::vmm {

/// kInvalidArgument, with what would fit, when memory, vCPUs and workload do not go together.
/// `tsc_khz` of the machine it will run on.
[[nodiscard]] Result<demo::ControlBlock> plan_demo_guest(const VmmConfig& config,
                                                         std::uint32_t tsc_khz);

}  // namespace migrate::vmm
