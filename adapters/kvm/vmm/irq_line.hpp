// KvmLine: an input of KVM's interrupt controllers.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

#include "adapters/kvm/vmm/devices/io_device.hpp"
#include "adapters/kvm/vmm/kvm_api.hpp"

namespace migrate::vmm {

class KvmLine final : public InterruptLine {
 public:
  /// `gsi`: the number by which KVM routes it, at first the I/O APIC's input of that number.
  /// `vm_fd` stays the caller's and has an in-kernel interrupt controller, so setting cannot fail.
  KvmLine(int vm_fd, std::uint32_t gsi) : vm_fd_(vm_fd), gsi_(gsi) {}

  void set(bool high) noexcept override {
    kvm_irq_level level{};
    level.irq = gsi_;
    level.level = high ? 1 : 0;
    (void)::ioctl(vm_fd_, KVM_IRQ_LINE, &level);
  }

 private:
  const int vm_fd_;
  const std::uint32_t gsi_;
};

}  // namespace migrate::vmm
