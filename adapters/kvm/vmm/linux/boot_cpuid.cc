#include "adapters/kvm/vmm/linux/boot_cpuid.hpp"

#include "adapters/kvm/vmm/apic_id.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint32_t kHypervisor = 1u << 31;
constexpr std::uint32_t kTscDeadline = 1u << 24;

}  // namespace

void set_linux_cpuid(std::span<kvm_cpuid_entry2> entries, std::uint32_t vcpu, bool tsc_deadline) {
  set_apic_id(entries, vcpu);
  for (kvm_cpuid_entry2& entry : entries) {
    if (entry.function == 1) entry.ecx |= kHypervisor | (tsc_deadline ? kTscDeadline : 0);
  }
}

}  // namespace migrate::vmm
