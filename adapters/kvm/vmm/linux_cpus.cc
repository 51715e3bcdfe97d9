#include "adapters/kvm/vmm/linux_cpus.hpp"

#include <sys/ioctl.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "adapters/kvm/vmm/linux/boot_cpu.hpp"
#include "adapters/kvm/vmm/linux/boot_cpuid.hpp"

namespace migrate::vmm {
namespace {

Error failed(const std::string& what) {
  return make_errno_error(ErrorCode::kIo, errno, "cannot " + what);
}

/// Where the host's KVM lacks the register, the guest does without.
void set_msr(int vcpu_fd, const BootMsr& msr) {
  alignas(kvm_msrs) std::array<std::byte, sizeof(kvm_msrs) + sizeof(kvm_msr_entry)> bytes{};
  kvm_msrs head{};
  head.nmsrs = 1;
  kvm_msr_entry entry{};
  entry.index = msr.index;
  entry.data = msr.value;
  std::memcpy(bytes.data(), &head, sizeof head);
  std::memcpy(bytes.data() + sizeof head, &entry, sizeof entry);
  (void)::ioctl(vcpu_fd, KVM_SET_MSRS, bytes.data());
}

}  // namespace

Status set_linux_cpuids(Machine& machine) {
  const bool deadline_timer =
      ::ioctl(machine.vm_fd(), KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  return machine.set_cpuid([&](std::span<kvm_cpuid_entry2> entries, std::uint32_t vcpu) {
    set_linux_cpuid(entries, vcpu, deadline_timer);
  });
}

Status enter_linux(const Machine& machine, std::uint64_t kernel_address) {
  for (const VcpuFd& other : machine.vcpus()) {
    for (const BootMsr& msr : boot_msrs()) set_msr(other.get(), msr);
  }
  const int vcpu = machine.vcpus().front().get();
  kvm_sregs sregs{};
  if (::ioctl(vcpu, KVM_GET_SREGS, &sregs) != 0) return failed("read a vCPU's system registers");
  set_boot_sregs(sregs);
  if (::ioctl(vcpu, KVM_SET_SREGS, &sregs) != 0) return failed("set a vCPU's system registers");
  const kvm_regs regs = boot_regs(kernel_address);
  if (::ioctl(vcpu, KVM_SET_REGS, &regs) != 0) return failed("set a vCPU's registers");
  return {};
}

}  // namespace migrate::vmm
