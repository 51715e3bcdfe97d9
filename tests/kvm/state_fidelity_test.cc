// Every corner of a vCPU and a VM that KVM lets us set arrives: what is saved at the target right
// after loading is what was loaded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>

#include "adapters/kvm/cpuid.hpp"
#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/state_codec.hpp"
#include "adapters/kvm/vcpu_caps.hpp"
#include "tests/kvm/tiny_guest_hooks.hpp"

namespace migrate {
namespace {

using kvm::VcpuState;
using testing::Sections;
using testing::SectionWriter;
using testing::TinyGuestOptions;
using testing::TinyMigration;

class StateFidelity : public ::testing::Test {
 protected:
  void SetUp() override { MIGRATE_NEEDS_KVM(); }
};

int offers(const KvmVm& vm, int capability) {
  return ::ioctl(vm.vm_fd, KVM_CHECK_EXTENSION, capability);
}

template <typename T>
T got(int fd, unsigned long request) {
  T value{};
  EXPECT_EQ(::ioctl(fd, request, &value), 0) << std::hex << request;
  return value;
}

using Change = std::function<void(const KvmVm&)>;

/// A stopped guest that has run a little, moved as it stands after `change`; both states. `make`
/// comes before it runs.
struct Moved {
  std::vector<VcpuState> left, arrived;
  kvm::VmState vm_left, vm_arrived;
};

Moved moved(
    const TinyGuestOptions& options, const Change& change,
    const Change& make = [](const KvmVm&) {}) {
  TinyMigration migration(options);
  make(migration.guest.vm());
  migration.run_and_prepare();
  change(migration.guest.vm());
  EXPECT_TRUE(migration.save());
  migration.copy_memory();
  const Status loaded = migration.load();
  EXPECT_TRUE(loaded) << loaded.error().to_text();

  testing::TinySourceHooks hooks(*migration.target_hooks.guest);
  auto again = make_kvm_source(migration.target_hooks.guest->vm(), hooks);
  TinyMigration::must(again);
  Sections sections;
  SectionWriter writer(sections);
  const Status saved = (*again)->save_state(writer);
  EXPECT_TRUE(saved) << saved.error().to_text();
  Moved result;
  const auto decode = [&](Sections& from, std::vector<VcpuState>& vcpus, kvm::VmState& vm) {
    for (std::uint32_t i = 0; i < options.vcpus; ++i) {
      auto state = kvm::decode_vcpu(from.at("kvm.vcpu." + std::to_string(i)).body);
      TinyMigration::must(state);
      vcpus.push_back(*std::move(state));
    }
    auto state = kvm::decode_vm(from.at("kvm.vm").body);
    TinyMigration::must(state);
    vm = *state;
  };
  decode(migration.sections, result.left, result.vm_left);
  decode(sections, result.arrived, result.vm_arrived);
  return result;
}

/// What goes on by itself: the TSC and its deadline, Hyper-V's run time and reference time.
bool runs(std::uint32_t msr) {
  return msr == kvm::kMsrTsc || msr == kvm::kMsrTscDeadline || msr == 0x40000010 ||
         msr == 0x40000020;
}

/// The other MSRs by number.
std::map<std::uint32_t, std::uint64_t> msrs(const VcpuState& state) {
  std::map<std::uint32_t, std::uint64_t> values;
  for (const kvm_msr_entry& entry : state.msrs) {
    if (!runs(entry.index)) values[entry.index] = entry.data;
  }
  return values;
}

template <typename T>
void expect_same(const T& left, const T& arrived, const char* what) {
  EXPECT_EQ(std::memcmp(&left, &arrived, sizeof(T)), 0) << what;
}

void expect_same_msrs(const std::map<std::uint32_t, std::uint64_t>& left,
                      const std::map<std::uint32_t, std::uint64_t>& arrived) {
  EXPECT_EQ(left.size(), arrived.size());
  for (const auto& [index, value] : left) {
    const auto found = arrived.find(index);
    ASSERT_NE(found, arrived.end()) << std::hex << index;
    EXPECT_EQ(value, found->second)
        << "MSR " << std::hex << index << ": " << value << ", arrived " << found->second;
  }
}

/// DR6 in the host's save area is written by no VMRUN and read by no #VMEXIT: it is what the VMCB
/// held when it was made.
std::vector<std::byte> without_host_dr6(std::vector<std::byte> nested) {
  constexpr std::size_t kDr6 = sizeof(kvm_nested_state) + 0x400 + 0x168;
  for (std::size_t i = kDr6; i < kDr6 + 8 && i < nested.size(); ++i) nested[i] = std::byte{0};
  return nested;
}

void expect_same_bytes(const std::vector<std::byte>& left, const std::vector<std::byte>& arrived) {
  ASSERT_EQ(left.size(), arrived.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    EXPECT_EQ(left[i], arrived[i]) << "byte 0x" << std::hex << i;
  }
}

void expect_same(const VcpuState& left, const VcpuState& arrived) {
  EXPECT_EQ(left.mp_state.mp_state, arrived.mp_state.mp_state);
  expect_same(left.regs, arrived.regs, "REGS");
  if (left.sregs2) expect_same(*left.sregs2, *arrived.sregs2, "SREGS2");
  if (left.sregs) expect_same(*left.sregs, *arrived.sregs, "SREGS");
  if (left.xcrs) expect_same(*left.xcrs, *arrived.xcrs, "XCRS");
  if (left.debugregs) expect_same(*left.debugregs, *arrived.debugregs, "DEBUGREGS");
  EXPECT_EQ(left.xsave, arrived.xsave);
  expect_same_bytes(without_host_dr6(left.nested), without_host_dr6(arrived.nested));
  EXPECT_EQ(left.mcg_cap, arrived.mcg_cap);
  expect_same_msrs(msrs(left), msrs(arrived));
  expect_same(left.events, arrived.events, "EVENTS");
  EXPECT_EQ(left.tsc_khz, arrived.tsc_khz);
}

void set_msr(int vcpu, std::uint32_t index, std::uint64_t value) {
  std::vector<kvm_msr_entry> refused;
  const kvm_msr_entry entry{index, 0, value};
  ASSERT_TRUE(kvm::write_msrs(vcpu, {&entry, 1}, refused));
  EXPECT_TRUE(refused.empty()) << std::hex << index;
}

TEST_F(StateFidelity, RegistersOfAllKindsArrive) {
  TinyGuestOptions options;
  options.vcpus = 2;
  const Moved both = moved(options, [](const KvmVm& vm) {
    const int vcpu = vm.vcpu_fds[1];
    auto debug = got<kvm_debugregs>(vcpu, KVM_GET_DEBUGREGS);
    debug.db[0] = 0x1000;
    debug.db[3] = 0x2000;
    debug.dr7 = 0x400;
    ASSERT_EQ(::ioctl(vcpu, KVM_SET_DEBUGREGS, &debug), 0);
    auto sregs = got<kvm_sregs>(vcpu, KVM_GET_SREGS);
    sregs.cr2 = 0xdead'beef'000;
    sregs.fs.base = 0x7fff'0000'1000;
    sregs.gs.base = 0x7fff'0000'2000;
    ASSERT_EQ(::ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
    set_msr(vcpu, 0x174, 0x10);                   // SYSENTER_CS
    set_msr(vcpu, 0xc0000081, 0x23001000000000);  // STAR
    set_msr(vcpu, 0xc0000102, 0x7fff'0000'3000);  // KERNEL_GS_BASE
    set_msr(vcpu, 0x277, 0x0007'0406'0007'0406);  // PAT
  });
  for (std::size_t i = 0; i < 2; ++i) {
    SCOPED_TRACE("vCPU " + std::to_string(i));
    expect_same(both.left[i], both.arrived[i]);
  }
  EXPECT_EQ(both.arrived[1].debugregs->db[3], 0x2000U);
  EXPECT_EQ(msrs(both.arrived[1]).at(0xc0000102), 0x7fff'0000'3000U);
}

TEST_F(StateFidelity, StatesOfVcpusThatWaitArrive) {
  TinyGuestOptions options;
  options.vcpus = 4;
  constexpr std::uint32_t kStates[] = {KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_HALTED,
                                       KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_RUNNABLE};
  const Moved both = moved(options, [&](const KvmVm& vm) {
    for (std::size_t i = 0; i < 4; ++i) {
      kvm_mp_state state{kStates[i]};
      ASSERT_EQ(::ioctl(vm.vcpu_fds[i], KVM_SET_MP_STATE, &state), 0);
    }
  });
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(both.left[i].mp_state.mp_state, kStates[i]) << i;
    EXPECT_EQ(both.arrived[i].mp_state.mp_state, kStates[i]) << i;
  }
}

TEST_F(StateFidelity, PendingEventsArriveWithTheirPayload) {
  kvm::VcpuCaps caps;
  const Moved both = moved({}, [&](const KvmVm& vm) {
    // As the adapter has done by now; here to know what this kernel has.
    kvm::enable_whole_events(vm.vm_fd, caps);
    auto events = got<kvm_vcpu_events>(vm.vcpu_fds[0], KVM_GET_VCPU_EVENTS);
    events.nmi.pending = 1;
    events.nmi.masked = 1;
    events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
    if (caps.exception_payload) {
      events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
      events.exception.nr = 14;
      events.exception.pending = 1;
      events.exception.has_error_code = 1;
      events.exception.error_code = 4;
      events.exception_has_payload = 1;
      events.exception_payload = 0x1234'5000;
    }
    if (offers(vm, KVM_CAP_X86_SMM) > 0) {
      events.flags |= KVM_VCPUEVENT_VALID_SMM;
      events.smi.pending = 1;
    }
    ASSERT_EQ(::ioctl(vm.vcpu_fds[0], KVM_SET_VCPU_EVENTS, &events), 0);
  });
  const kvm_vcpu_events& left = both.left[0].events;
  const kvm_vcpu_events& arrived = both.arrived[0].events;
  expect_same(left, arrived, "EVENTS");
  EXPECT_EQ(arrived.nmi.masked, 1);
  if (caps.exception_payload) {
    EXPECT_EQ(arrived.exception_payload, left.exception_payload);
    EXPECT_EQ(both.left[0].sregs2 ? both.left[0].sregs2->cr2 : both.left[0].sregs->cr2,
              both.arrived[0].sregs2 ? both.arrived[0].sregs2->cr2 : both.arrived[0].sregs->cr2);
  }
}

TEST_F(StateFidelity, BanksOfMachineChecksArrive) {
  bool has_banks = false;
  const Moved both = moved(
      {},
      [&](const KvmVm& vm) {
        if (!has_banks) return;
        set_msr(vm.vcpu_fds[0], 0x400, ~std::uint64_t{0});  // MC0_CTL
        set_msr(vm.vcpu_fds[0], 0x426, 0x1234'5000);        // MC9_ADDR
      },
      [&](const KvmVm& vm) {
        has_banks = offers(vm, KVM_CAP_MCE) >= 10;
        const std::uint64_t ten_banks = 10;
        if (!has_banks) return;
        ASSERT_EQ(::ioctl(vm.vcpu_fds[0], KVM_X86_SETUP_MCE, &ten_banks), 0);
      });
  expect_same(both.left[0], both.arrived[0]);
  if (!has_banks) return;
  EXPECT_EQ(both.arrived[0].mcg_cap, 10U);
  EXPECT_EQ(msrs(both.arrived[0]).at(0x426), 0x1234'5000U);
  EXPECT_EQ(msrs(both.arrived[0]).count(0x428), 0U) << "an eleventh bank";
}

TEST_F(StateFidelity, ATimerOfTheLapicArrives) {
  const Moved both = moved({}, [](const KvmVm& vm) {
    auto lapic = got<kvm_lapic_state>(vm.vcpu_fds[0], KVM_GET_LAPIC);
    const auto set = [&](std::size_t at, std::uint32_t value) {
      std::memcpy(lapic.regs + at, &value, sizeof value);
    };
    set(0xf0, 0x1ff);         // Spurious vector, enabled.
    set(0x320, 0x300ef);      // Timer: masked, periodic, vector 0xef.
    set(0x3e0, 0xb);          // Divide by 1.
    set(0x380, 0x7fff'ffff);  // Initial count.
    ASSERT_EQ(::ioctl(vm.vcpu_fds[0], KVM_SET_LAPIC, &lapic), 0);
  });
  const auto at = [](const VcpuState& state, std::size_t offset) {
    std::uint32_t value = 0;
    std::memcpy(&value, state.lapic->regs + offset, sizeof value);
    return value;
  };
  for (const std::size_t offset : {0x20U, 0x80U, 0xf0U, 0x320U, 0x3e0U, 0x380U}) {
    EXPECT_EQ(at(both.left[0], offset), at(both.arrived[0], offset)) << std::hex << offset;
  }
  EXPECT_EQ(at(both.arrived[0], 0x380), 0x7fff'ffffU);
}

TEST_F(StateFidelity, InterruptControllersAndThePitArrive) {
  TinyGuestOptions options;
  options.pit = true;
  const Moved both = moved(options, [](const KvmVm& vm) {
    kvm_irqchip chip{};
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    ASSERT_EQ(::ioctl(vm.vm_fd, KVM_GET_IRQCHIP, &chip), 0);
    chip.chip.ioapic.redirtbl[5].bits = 0x1'0000 | 0x35;  // Masked, vector 0x35.
    ASSERT_EQ(::ioctl(vm.vm_fd, KVM_SET_IRQCHIP, &chip), 0);
    chip = {};
    chip.chip_id = KVM_IRQCHIP_PIC_MASTER;
    ASSERT_EQ(::ioctl(vm.vm_fd, KVM_GET_IRQCHIP, &chip), 0);
    chip.chip.pic.imr = 0xfb;
    chip.chip.pic.irq_base = 0x30;
    ASSERT_EQ(::ioctl(vm.vm_fd, KVM_SET_IRQCHIP, &chip), 0);
    auto pit = got<kvm_pit_state2>(vm.vm_fd, KVM_GET_PIT2);
    pit.channels[2].mode = 3;
    pit.channels[2].count = 0x4a9;
    pit.channels[2].gate = 1;
    ASSERT_EQ(::ioctl(vm.vm_fd, KVM_SET_PIT2, &pit), 0);
  });
  const auto& ioapic = both.vm_arrived.ioapic->chip.ioapic;
  EXPECT_EQ(ioapic.redirtbl[5].bits, both.vm_left.ioapic->chip.ioapic.redirtbl[5].bits);
  EXPECT_EQ(ioapic.redirtbl[5].fields.vector, 0x35);
  EXPECT_EQ(both.vm_arrived.pic_master->chip.pic.imr, 0xfb);
  EXPECT_EQ(both.vm_arrived.pic_master->chip.pic.irq_base, 0x30);
  // When a count was loaded is of each host's own clock: KVM counts anew from here.
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(both.vm_arrived.pit->channels[i].count, both.vm_left.pit->channels[i].count) << i;
    EXPECT_EQ(both.vm_arrived.pit->channels[i].mode, both.vm_left.pit->channels[i].mode) << i;
    EXPECT_EQ(both.vm_arrived.pit->channels[i].gate, both.vm_left.pit->channels[i].gate) << i;
  }
  EXPECT_EQ(both.vm_arrived.pit->channels[2].count, 0x4a9U);
}

/// A nested guest under SVM, as KVM_SET_NESTED_STATE takes it: its VMCB's control area with what is
/// required (the intercept of VMRUN, an ASID), and its host's registers.
std::vector<std::byte> svm_nested(const kvm_sregs& host) {
  std::vector<std::byte> bytes(sizeof(kvm_nested_state) + KVM_STATE_NESTED_SVM_VMCB_SIZE);
  kvm_nested_state head{};
  head.size = static_cast<std::uint32_t>(bytes.size());
  head.format = KVM_STATE_NESTED_FORMAT_SVM;
  head.flags = KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_GIF_SET;
  head.hdr.svm.vmcb_pa = 0x9000;
  std::memcpy(bytes.data(), &head, sizeof head);
  const auto put = [&](std::size_t at, auto value) {
    std::memcpy(bytes.data() + sizeof head + at, &value, sizeof value);
  };
  put(0x10, std::uint32_t{1});               // Intercepts, word 4: VMRUN.
  put(0x58, std::uint32_t{1});               // ASID.
  constexpr std::size_t kSave = 0x400;       // The save area (APM volume 2, appendix B).
  put(kSave + 0x12, std::uint16_t{0x029b});  // CS: present, code, read, long.
  put(kSave + 0xd0, std::uint64_t{host.efer});
  put(kSave + 0x148, std::uint64_t{host.cr4});
  put(kSave + 0x150, std::uint64_t{host.cr3});
  put(kSave + 0x158, std::uint64_t{host.cr0});
  put(kSave + 0x160, std::uint64_t{0x400});       // DR7
  put(kSave + 0x168, std::uint64_t{0xffff0ff0});  // DR6
  put(kSave + 0x170, std::uint64_t{2});           // RFLAGS
  return bytes;
}

// A guest that runs a guest of its own arrives within it.
TEST_F(StateFidelity, AGuestInItsOwnGuestArrives) {
  bool nested = false;
  const Moved both = moved({}, [&](const KvmVm& vm) {
    const int vcpu = vm.vcpu_fds[0];
    const auto cpuid = kvm::vcpu_cpuid(vcpu);
    ASSERT_TRUE(cpuid);
    const bool svm = (kvm::word(*cpuid, 0x80000001, 0, kvm::Register::kEcx) >> 2 & 1) != 0;
    nested = svm && offers(vm, KVM_CAP_NESTED_STATE) > 0;
    if (!nested) return;
    auto sregs = got<kvm_sregs>(vcpu, KVM_GET_SREGS);
    sregs.efer |= 1U << 12;  // SVME
    ASSERT_EQ(::ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
    const std::vector<std::byte> state = svm_nested(sregs);
    ASSERT_EQ(::ioctl(vcpu, KVM_SET_NESTED_STATE, state.data()), 0) << std::strerror(errno);
  });
  expect_same(both.left[0], both.arrived[0]);
  if (!nested) return;
  kvm_nested_state head{};
  ASSERT_GE(both.arrived[0].nested.size(), sizeof head);
  std::memcpy(&head, both.arrived[0].nested.data(), sizeof head);
  EXPECT_NE(head.flags & KVM_STATE_NESTED_GUEST_MODE, 0);
  EXPECT_EQ(head.hdr.svm.vmcb_pa, 0x9000U);
}

// Nested state goes along even where the guest has no guest: KVM takes back what it gave.
TEST_F(StateFidelity, NestedStateIsThereWhereKvmHasItAndComesBack) {
  int bytes = 0;
  const Moved both =
      moved({}, [&](const KvmVm& vm) { bytes = std::max(0, offers(vm, KVM_CAP_NESTED_STATE)); });
  EXPECT_EQ(both.left[0].nested.empty(), bytes == 0);
  EXPECT_EQ(both.left[0].nested, both.arrived[0].nested);
  if (bytes > 0) {
    EXPECT_GE(both.left[0].nested.size(), sizeof(kvm_nested_state));
  }
}

}  // namespace
}  // namespace migrate
