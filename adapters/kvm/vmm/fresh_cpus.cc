#include "adapters/kvm/vmm/fresh_cpus.hpp"

#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

namespace migrate::vmm {
namespace {

constexpr __u32 kTimeStampCounter = 0x10;
constexpr __u32 kPlatformInfo = 0xce;
constexpr __u32 kChips = 3;  // The two PICs and the I/O APIC.

template <typename T>
Status call(int fd, unsigned long request, T* argument, const char* what) {
  if (::ioctl(fd, request, argument) >= 0) return {};
  return make_errno_error(ErrorCode::kIo, errno, std::string("cannot ") + what);
}

/// KVM_GET_MSRS and KVM_SET_MSRS of one register; false when KVM has it not, or does not take it.
bool call_msr(int vcpu_fd, unsigned long request, kvm_msr_entry& entry) {
  alignas(kvm_msrs) std::array<std::byte, sizeof(kvm_msrs) + sizeof(kvm_msr_entry)> bytes{};
  kvm_msrs head{};
  head.nmsrs = 1;
  std::memcpy(bytes.data(), &head, sizeof head);
  std::memcpy(bytes.data() + sizeof head, &entry, sizeof entry);
  if (::ioctl(vcpu_fd, request, bytes.data()) != 1) return false;
  std::memcpy(&entry, bytes.data() + sizeof head, sizeof entry);
  return true;
}

/// One of KVM's lists: `request` is KVM_GET_MSR_INDEX_LIST or the one of features.
Result<std::vector<__u32>> kvm_list(int kvm_fd, unsigned long request) {
  kvm_msr_list count{};
  // Fails with E2BIG, and tells how many there are.
  (void)::ioctl(kvm_fd, request, &count);
  std::vector<__u32> words(1 + count.nmsrs);
  words.front() = count.nmsrs;
  MIGRATE_TRY(call(kvm_fd, request, words.data(), "list KVM's MSRs"));
  words.erase(words.begin());
  return words;
}

/// Those that a reset changes. Not what says what a processor has: of a guest that has arrived here
/// that is its source's, and not what KVM gave the vCPU at first.
Result<std::vector<__u32>> msr_list(int kvm_fd) {
  std::vector<__u32> features;
  // There since Linux 4.17.
  if (auto listed = kvm_list(kvm_fd, KVM_GET_MSR_FEATURE_INDEX_LIST)) {
    features = *std::move(listed);
  }
  features.insert(features.end(), {kTimeStampCounter, kPlatformInfo});
  MIGRATE_ASSIGN(auto words, kvm_list(kvm_fd, KVM_GET_MSR_INDEX_LIST));
  std::erase_if(words, [&](__u32 index) {
    return std::find(features.begin(), features.end(), index) != features.end();
  });
  return words;
}

/// Where KVM has a state larger than the old 4 KiB.
std::size_t xsave_bytes(int vm_fd) {
  const int bytes = ::ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  return std::max(sizeof(kvm_xsave), static_cast<std::size_t>(std::max(bytes, 0)));
}

}  // namespace

Result<FreshCpus> FreshCpus::read(const Machine& machine) {
  FreshCpus fresh;
  MIGRATE_ASSIGN(const auto msrs, msr_list(machine.kvm_fd()));
  for (const VcpuFd& vcpu : machine.vcpus()) {
    MIGRATE_TRY(read(machine, msrs, vcpu.get(), fresh.cpus_.emplace_back()));
  }
  for (__u32 id = 0; id < kChips; ++id) {
    kvm_irqchip& chip = fresh.chips_.emplace_back();
    chip.chip_id = id;
    MIGRATE_TRY(call(machine.vm_fd(), KVM_GET_IRQCHIP, &chip, "read an interrupt controller"));
  }
  return fresh;
}

Status FreshCpus::read(const Machine& machine, const std::vector<__u32>& msrs, int vcpu_fd,
                       Cpu& cpu) {
  constexpr const char* kWhat = "read the state of a fresh vCPU";
  MIGRATE_TRY(call(vcpu_fd, KVM_GET_REGS, &cpu.regs, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_GET_SREGS, &cpu.sregs, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_GET_DEBUGREGS, &cpu.debug, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_GET_XCRS, &cpu.xcrs, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_GET_LAPIC, &cpu.lapic, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_GET_VCPU_EVENTS, &cpu.events, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_GET_MP_STATE, &cpu.mp_state, kWhat));
  cpu.xsave.resize(xsave_bytes(machine.vm_fd()));
  const bool large = cpu.xsave.size() > sizeof(kvm_xsave);
  MIGRATE_TRY(call(vcpu_fd, large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, cpu.xsave.data(), kWhat));
  for (const __u32 index : msrs) {
    kvm_msr_entry entry{};
    entry.index = index;
    if (call_msr(vcpu_fd, KVM_GET_MSRS, entry)) cpu.msrs.push_back(entry);
  }
  return {};
}

Status FreshCpus::restore(const Machine& machine) const {
  MIGRATE_CHECK(machine.vcpus().size() == cpus_.size());
  for (std::size_t i = 0; i < cpus_.size(); ++i) {
    MIGRATE_TRY(restore(machine.vcpus()[i].get(), cpus_[i]));
  }
  for (kvm_irqchip chip : chips_) {
    MIGRATE_TRY(call(machine.vm_fd(), KVM_SET_IRQCHIP, &chip, "reset an interrupt controller"));
  }
  return {};
}

// System registers before the local APIC, whose base is among them, and both before MSRs, of which
// its timer is one; events last (as adapters/kvm/state_order.hpp has it).
Status FreshCpus::restore(int vcpu_fd, const Cpu& fresh) {
  constexpr const char* kWhat = "reset a vCPU";
  Cpu cpu = fresh;
  MIGRATE_TRY(call(vcpu_fd, KVM_SET_SREGS, &cpu.sregs, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_SET_XCRS, &cpu.xcrs, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_SET_XSAVE, cpu.xsave.data(), kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_SET_LAPIC, &cpu.lapic, kWhat));
  // Those that KVM does not let a VMM set have no value to go back to.
  for (kvm_msr_entry& entry : cpu.msrs) (void)call_msr(vcpu_fd, KVM_SET_MSRS, entry);
  MIGRATE_TRY(call(vcpu_fd, KVM_SET_DEBUGREGS, &cpu.debug, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_SET_REGS, &cpu.regs, kWhat));
  MIGRATE_TRY(call(vcpu_fd, KVM_SET_MP_STATE, &cpu.mp_state, kWhat));
  return call(vcpu_fd, KVM_SET_VCPU_EVENTS, &cpu.events, kWhat);
}

}  // namespace migrate::vmm
