#include "adapters/kvm/vmm/demo_config.hpp"

#include <algorithm>

#include "adapters/kvm/vmm/demo_plan.hpp"
#include "adapters/kvm/vmm/device_config.hpp"

namespace migrate::vmm {
namespace {

/// It answers to the addresses it has; others would be told to the network for nothing.
Status check_addresses(const std::vector<NetConfig>& nets, const std::vector<NetConfig>& here) {
  for (std::size_t i = 0; i < std::min(nets.size(), here.size()); ++i) {
    const auto& own = nets[i].addresses;
    for (const IpAddress& address : here[i].addresses) {
      if (std::find(own.begin(), own.end(), address) != own.end()) continue;
      return other_machine("network card " + std::to_string(i + 1) +
                               " of the guest does not answer to " + to_text(address),
                           "leave out ip= on the receiving side: the guest keeps its addresses");
    }
  }
  return {};
}

}  // namespace

Status complete_demo(VmmConfig& config) {
  complete_nets(config);
  if (const auto plan = plan_demo_guest(config, 0); !plan) return plan.error();
  return {};
}

Status fit_demo(VmmConfig& config, const ArrivalConfig& host) {
  if (!host.disks.empty()) {
    return other_machine("the guest is a demo guest, which has no disks",
                         "leave out --disk on the receiving side");
  }
  MIGRATE_TRY(check_addresses(config.nets, host.nets));
  const std::vector<NetConfig> own = config.nets;
  MIGRATE_TRY(fit_nets(config.nets, host));
  for (std::size_t i = 0; i < own.size(); ++i) config.nets[i].addresses = own[i].addresses;
  return {};
}

}  // namespace migrate::vmm
