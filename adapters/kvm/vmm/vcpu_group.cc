#include "adapters/kvm/vmm/vcpu_group.hpp"

#include <algorithm>

namespace migrate::vmm {

VcpuGroup::VcpuGroup(const Machine& machine, VcpuEvents& events) {
  for (const VcpuFd& fd : machine.vcpus()) {
    vcpus_.push_back(std::make_unique<Vcpu>(size(), fd, events, machine.dirty_ring()));
  }
}

Status VcpuGroup::start() {
  for (const auto& vcpu : vcpus_) MIGRATE_TRY(vcpu->start());
  return {};
}

void VcpuGroup::let_all_run() {
  for (const auto& vcpu : vcpus_) vcpu->let_run();
}

void VcpuGroup::ask_all_to_park() {
  for (const auto& vcpu : vcpus_) vcpu->ask_to_park();
}

bool VcpuGroup::wait_all_parked(SteadyTime deadline) {
  bool all = true;
  for (const auto& vcpu : vcpus_) all = vcpu->wait_parked(deadline) && all;
  return all;
}

SteadyTime VcpuGroup::parked_at() const {
  SteadyTime last{};
  for (const auto& vcpu : vcpus_) last = std::max(last, vcpu->parked_at());
  return last;
}

}  // namespace migrate::vmm
