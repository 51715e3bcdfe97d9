#include "adapters/kvm/vmm/linux/boot_cpuid.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint32_t kHypervisor = 1u << 31;
constexpr std::uint32_t kTscDeadline = 1u << 24;

}  // namespace

void set_linux_cpuid(std::span<kvm_cpuid_entry2> entries, std::uint32_t vcpu, bool tsc_deadline) {
  for (kvm_cpuid_entry2& entry : entries) {
    switch (entry.function) {
      case 1:
        entry.ecx |= kHypervisor | (tsc_deadline ? kTscDeadline : 0);
        entry.ebx = (entry.ebx & 0x00ff'ffffu) | vcpu << 24;
        break;
      case 0xb:
      case 0x1f:
        entry.edx = vcpu;
        break;
      case 0x8000'001eu:
        entry.eax = vcpu;
        break;
      default:
        break;
    }
  }
}

}  // namespace migrate::vmm
