// What a demo guest's configuration must be, for a new guest and for one that arrives.
#pragma once

#include "adapters/kvm/vmm/vmm_config.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Fills in what a new guest's configuration leaves open and moves with it: MAC addresses.
/// kInvalidArgument for one that no demo guest can have (plan_demo_guest()).
Status complete_demo(VmmConfig& config);

/// Joins an arriving guest with what this host has for it. kIncompatible, with what is missing or
/// too much, when that is not what the guest has.
Status fit_demo(VmmConfig& config, const ArrivalConfig& host);

}  // namespace migrate::vmm
