// What a guest's disks and network cards must be at a host it arrives at.
#pragma once

#include <string>
#include <vector>

#include "adapters/kvm/vmm/vmm_config.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// kIncompatible: the guest is not what this host has a place for.
[[nodiscard]] Error other_machine(std::string message, std::string remedy);

/// Gives a new guest's network cards the MAC addresses that were left open.
void complete_nets(VmmConfig& config);

/// Joins an arriving guest's devices with what this host has for them. kIncompatible, with what is
/// missing, too much or different.
Status fit_disks(std::vector<DiskConfig>& disks, const std::vector<DiskConfig>& here);
/// The addresses given here, if any, replace the guest's. With a new identity the cards get MAC
/// addresses given here, or fresh ones, and their own become former ones.
Status fit_nets(std::vector<NetConfig>& nets, const ArrivalConfig& host);

}  // namespace migrate::vmm
