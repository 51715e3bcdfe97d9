// What a Linux guest's configuration must be, for a new guest and for one that arrives.
#pragma once

#include "adapters/kvm/vmm/vmm_config.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Memory, vCPUs and number of devices; of a user's words or a peer's. kInvalidArgument.
Status check_linux(const VmmConfig& config);

/// check_linux(), and fills in what a new guest's configuration leaves open and moves with it: MAC
/// addresses and the sizes of disks. DiskFile::open()'s errors.
Status complete_linux(VmmConfig& config);

/// Joins an arriving guest with what this host has for it. kIncompatible, with what is missing or
/// too much, when that is not what the guest has.
Status fit_linux(VmmConfig& config, const ArrivalConfig& host);

}  // namespace migrate::vmm
