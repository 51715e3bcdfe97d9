#include "adapters/kvm/vmm/machine.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

namespace migrate::vmm {
namespace {

// Three pages that Intel's virtualisation of real mode wants, in the hole below 4 GiB where no
// machine has anything; the identity map's default place is the page below them.
constexpr unsigned long kTssAddress = 0xfffbd000;

// KVM has about 50 entries; it answers E2BIG for a table that is too small.
constexpr std::uint32_t kCpuidEntriesMax = 256;

Error failed(const std::string& what) {
  return make_errno_error(ErrorCode::kIo, errno, "cannot " + what);
}

Result<Fd> open_kvm() {
  Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (kvm) return kvm;
  if (errno == EACCES || errno == EPERM) {
    return make_errno_error(ErrorCode::kPermission, errno, "cannot open /dev/kvm")
        .advise("run as root or as a member of the group that owns it (usually kvm)");
  }
  return make_errno_error(ErrorCode::kUnsupported, errno, "cannot open /dev/kvm")
      .advise("load kvm_intel or kvm_amd, or switch on virtualisation in the firmware or the host");
}

Status check_version(int kvm) {
  const int version = ::ioctl(kvm, KVM_GET_API_VERSION, 0);
  if (version == KVM_API_VERSION) return {};
  return make_error(ErrorCode::kUnsupported, "/dev/kvm speaks version " + std::to_string(version) +
                                                 " of its interface instead of " +
                                                 std::to_string(KVM_API_VERSION));
}

bool has_extension(int fd, unsigned long extension) {
  return ::ioctl(fd, KVM_CHECK_EXTENSION, extension) > 0;
}

/// A kvm_cpuid2 with room for its entries behind it.
class CpuidTable {
 public:
  CpuidTable() : words_((sizeof(kvm_cpuid2) + kCpuidEntriesMax * sizeof(kvm_cpuid_entry2)) / 8) {
    head()->nent = kCpuidEntriesMax;
  }
  kvm_cpuid2* head() { return reinterpret_cast<kvm_cpuid2*>(words_.data()); }
  std::span<kvm_cpuid_entry2> entries() { return {head()->entries, head()->nent}; }
  void fill(const std::vector<kvm_cpuid_entry2>& from) {
    MIGRATE_CHECK(from.size() <= kCpuidEntriesMax);
    head()->nent = static_cast<std::uint32_t>(from.size());
    std::copy(from.begin(), from.end(), head()->entries);
  }

 private:
  std::vector<std::uint64_t> words_;
};

}  // namespace

VcpuFd::~VcpuFd() {
  if (run_ != nullptr) ::munmap(run_, run_bytes_);
}

bool Machine::offers_irqchip() {
  const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  return kvm && has_extension(kvm.get(), KVM_CAP_IRQCHIP);
}

Result<Machine> Machine::create(const Shape& shape, std::span<const KvmMemorySlot> slots) {
  MIGRATE_ASSIGN(Fd kvm, open_kvm());
  MIGRATE_TRY(check_version(kvm.get()));
  Fd vm(::ioctl(kvm.get(), KVM_CREATE_VM, 0));
  if (!vm) return failed("create a virtual machine");
  Machine machine(std::move(kvm), std::move(vm), shape);
  // First of all: KVM wants it before vCPUs and memory.
  if (shape.dirty_ring) {
    MIGRATE_ASSIGN(machine.dirty_ring_, KvmDirtyRing::enable(machine.vm_fd()));
  }
  MIGRATE_TRY(machine.set_up_chips());
  MIGRATE_TRY(machine.add_slots(slots));
  MIGRATE_TRY(machine.add_vcpus());
  return machine;
}

Status Machine::set_up_chips() {
  if (has_extension(vm_.get(), KVM_CAP_SET_TSS_ADDR) &&
      ::ioctl(vm_.get(), KVM_SET_TSS_ADDR, kTssAddress) != 0) {
    return failed("set KVM's TSS address");
  }
  if (shape_.irqchip && ::ioctl(vm_.get(), KVM_CREATE_IRQCHIP, 0) != 0) {
    return failed("create the in-kernel interrupt controllers");
  }
  if (shape_.pit) {
    kvm_pit_config config{};
    if (::ioctl(vm_.get(), KVM_CREATE_PIT2, &config) != 0)
      return failed("create the in-kernel PIT");
  }
  return {};
}

Status Machine::add_slots(std::span<const KvmMemorySlot> slots) {
  for (const KvmMemorySlot& slot : slots) {
    kvm_userspace_memory_region region{};
    region.slot = slot.slot;
    region.guest_phys_addr = slot.guest_address.value;
    region.memory_size = slot.bytes;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(slot.host);
    if (::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) {
      return failed("give the guest memory slot " + std::to_string(slot.slot));
    }
  }
  return {};
}

Status Machine::add_vcpus() {
  const int run_bytes = ::ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes < static_cast<int>(sizeof(kvm_run))) return failed("ask for KVM's vCPU page size");
  for (std::uint32_t id = 0; id < shape_.vcpus; ++id) {
    Fd fd(::ioctl(vm_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(id)));
    if (!fd) return failed("create vCPU " + std::to_string(id)).advise("give fewer vCPUs");
    void* const run = ::mmap(nullptr, static_cast<std::size_t>(run_bytes), PROT_READ | PROT_WRITE,
                             MAP_SHARED, fd.get(), 0);
    if (run == MAP_FAILED) return failed("map the page of vCPU " + std::to_string(id));
    if (dirty_ring_ != nullptr) MIGRATE_TRY(dirty_ring_->add_vcpu(fd.get()));
    vcpus_.emplace_back(std::move(fd), static_cast<kvm_run*>(run),
                        static_cast<std::size_t>(run_bytes));
  }
  return {};
}

Result<std::uint32_t> Machine::tsc_khz() const {
  const int khz = ::ioctl(vcpus_.front().get(), KVM_GET_TSC_KHZ, 0);
  if (khz <= 0) {
    return make_errno_error(ErrorCode::kUnsupported, khz < 0 ? errno : 0,
                            "KVM does not tell the frequency of the time stamp counter, and the "
                            "demo guest has no other clock");
  }
  return static_cast<std::uint32_t>(khz);
}

Status Machine::set_cpuid(const EditCpuid& edit) {
  CpuidTable table;
  if (shape_.cpu) {
    MIGRATE_ASSIGN(const auto masked, cpuid_of_baseline(kvm_.get(), *shape_.cpu));
    table.fill(masked);
  } else if (::ioctl(kvm_.get(), KVM_GET_SUPPORTED_CPUID, table.head()) != 0) {
    return failed("ask KVM for the CPUID it supports");
  }
  for (std::uint32_t id = 0; id < shape_.vcpus; ++id) {
    edit(table.entries(), id);
    if (::ioctl(vcpus_[id].get(), KVM_SET_CPUID2, table.head()) != 0) {
      return failed("set the CPUID of vCPU " + std::to_string(id));
    }
    if (shape_.cpu) MIGRATE_TRY(set_baseline_msrs(vcpus_[id].get(), *shape_.cpu));
  }
  return {};
}

}  // namespace migrate::vmm
