// VcpuGroup: all vCPUs of a machine.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "adapters/kvm/vmm/machine.hpp"
#include "adapters/kvm/vmm/vcpu.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// Any thread may call any method; see Vcpu.
class VcpuGroup {
 public:
  /// Both must outlive it.
  VcpuGroup(const Machine& machine, VcpuEvents& events);

  /// Makes their threads, which park.
  Status start();
  void let_all_run();
  void ask_all_to_park();
  /// False when one has not by `deadline`.
  bool wait_all_parked(SteadyTime deadline);
  /// When the last one parked.
  [[nodiscard]] SteadyTime parked_at() const;

  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(vcpus_.size()); }
  [[nodiscard]] Vcpu& operator[](std::uint32_t id) const { return *vcpus_[id]; }

 private:
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace migrate::vmm
