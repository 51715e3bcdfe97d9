// Machine: the descriptors of one KVM virtual machine, and its vCPUs' shared pages.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "adapters/kvm/vmm/kvm_api.hpp"
#include "base/fd.hpp"
#include "migrate/kvm_cpu_baseline.hpp"
#include "migrate/kvm_dirty_ring.hpp"
#include "migrate/kvm_slot.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// A vCPU's descriptor, and the page KVM_RUN speaks through.
class VcpuFd {
 public:
  VcpuFd(Fd fd, kvm_run* run, std::size_t run_bytes)
      : fd_(std::move(fd)), run_(run), run_bytes_(run_bytes) {}
  ~VcpuFd();
  VcpuFd(VcpuFd&& other) noexcept
      : fd_(std::move(other.fd_)),
        run_(std::exchange(other.run_, nullptr)),
        run_bytes_(other.run_bytes_) {}
  VcpuFd& operator=(VcpuFd&&) = delete;

  [[nodiscard]] int get() const { return fd_.get(); }
  [[nodiscard]] kvm_run* run() const { return run_; }

 private:
  Fd fd_;
  kvm_run* run_;
  std::size_t run_bytes_;
};

class Machine {
 public:
  struct Shape {
    std::uint32_t vcpus = 1;
    bool irqchip = true;
    bool pit = false;
    bool dirty_ring = false;
    /// The processor a new guest is given; nullopt: all that this host's KVM offers.
    std::optional<KvmCpuBaseline> cpu;
  };
  /// Whether this host's KVM has an in-kernel interrupt controller; false without /dev/kvm too.
  static bool offers_irqchip();

  /// kUnsupported or kPermission without a usable /dev/kvm, kUnsupported without the ring that was
  /// asked for. The memory of `slots` must outlive it.
  static Result<Machine> create(const Shape& shape, std::span<const KvmMemorySlot> slots);

  [[nodiscard]] int kvm_fd() const { return kvm_.get(); }
  [[nodiscard]] int vm_fd() const { return vm_.get(); }
  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] std::span<const VcpuFd> vcpus() const { return vcpus_; }
  /// Null unless its shape has one.
  [[nodiscard]] const std::shared_ptr<KvmDirtyRing>& dirty_ring() const { return dirty_ring_; }
  /// Frequency of the guest's time stamp counter.
  [[nodiscard]] Result<std::uint32_t> tsc_khz() const;
  /// Changes CPUID's entries, for one vCPU; they may be another's, changed already.
  using EditCpuid = std::function<void(std::span<kvm_cpuid_entry2>, std::uint32_t vcpu)>;
  /// Gives each vCPU all that this host's KVM offers, edited.
  Status set_cpuid(const EditCpuid& edit);

 private:
  Machine(Fd kvm, Fd vm, const Shape& shape)
      : kvm_(std::move(kvm)), vm_(std::move(vm)), shape_(shape) {}
  Status set_up_chips();
  Status add_slots(std::span<const KvmMemorySlot> slots);
  Status add_vcpus();

  Fd kvm_;
  Fd vm_;
  Shape shape_;
  std::shared_ptr<KvmDirtyRing> dirty_ring_;
  std::vector<VcpuFd> vcpus_;
};

}  // namespace migrate::vmm
