// A guest that arrives is the one it was, or, where asked, another: by its generation id, which its
// kernel is told of, and by the addresses of its cards.
#include <gmock/gmock.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <array>

#include "adapters/kvm/vmm/linux/memory_map.hpp"
#include "tests/vmm_linux/linux_fixture.hpp"

namespace migrate::vmm {
namespace {

GenerationId id_in_memory(const Vmm& vmm) {
  GenerationId id;
  std::memcpy(id.bytes.data(), vmm.kvm_vm().slots[0].host + kGenerationAddress.value,
              id.bytes.size());
  return id;
}

class IdentityTest : public LinuxGuestTest {
 protected:
  static constexpr std::uint8_t kVector = 0x41;
  // Of a local APIC.
  static constexpr std::size_t kSpurious = 0xf0;
  static constexpr std::size_t kRequests = 0x200;
  static constexpr std::uint32_t kEnabled = 1u << 8;

  /// As a kernel's driver does: edges of the input become an interrupt of the first processor.
  /// It waits there, because the tiny kernel takes none.
  static void listen(const Vmm& vmm) {
    kvm_irqchip chip{};
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    ASSERT_EQ(::ioctl(vmm.kvm_vm().vm_fd, KVM_GET_IRQCHIP, &chip), 0);
    chip.chip.ioapic.redirtbl[kGenerationInterrupt].bits = kVector;
    ASSERT_EQ(::ioctl(vmm.kvm_vm().vm_fd, KVM_SET_IRQCHIP, &chip), 0);
    kvm_lapic_state apic = apic_of(vmm);
    put(apic, kSpurious, get(apic, kSpurious) | kEnabled | 0xff);
    ASSERT_EQ(::ioctl(vmm.kvm_vm().vcpu_fds[0], KVM_SET_LAPIC, &apic), 0);
  }
  /// Of a guest that stands.
  static bool was_interrupted(const Vmm& vmm) {
    const std::uint32_t requests = get(apic_of(vmm), kRequests + kVector / 32 * 0x10);
    return (requests >> kVector % 32 & 1) != 0;
  }

  struct Arrival {
    std::shared_ptr<Vmm> vmm;
    std::unique_ptr<VmmTargetHooks> hooks;
    std::unique_ptr<TargetGuest> target;
  };
  /// A guest with the state and the memory of `from`, which stands before and after.
  static Arrival arrive(const std::shared_ptr<Vmm>& from, const ArrivalConfig& config,
                        const std::string& lost = {}) {
    Arrival arrival;
    arrival.hooks = std::make_unique<VmmTargetHooks>(config);
    Move leaving(from);
    const auto description = leaving.source().describe();
    arrival.target = make_kvm_target(from->kvm_vm().kvm_fd, *arrival.hooks);
    const Status prepared = arrival.target->prepare(*description);
    EXPECT_TRUE(prepared) << prepared.error().to_text();
    arrival.vmm = arrival.hooks->vmm();
    Sections state;
    Recorder recorder(state);
    EXPECT_TRUE(leaving.source().save_state(recorder));
    std::erase_if(state, [&](const auto& section) { return section.info.name == lost; });
    Player player(state);
    const Status loaded = arrival.target->load_state(player);
    EXPECT_TRUE(loaded) << loaded.error().to_text();
    // The last of memory may come after the state.
    const KvmMemorySlot& slot = from->kvm_vm().slots[0];
    std::memcpy(arrival.vmm->kvm_vm().slots[0].host, slot.host, slot.bytes);
    EXPECT_TRUE(leaving.source().relinquish());
    EXPECT_TRUE(arrival.target->acquire());
    return arrival;
  }
  [[nodiscard]] ArrivalConfig as_another() const {
    ArrivalConfig config = arrival();
    config.new_identity = true;
    return config;
  }

 private:
  static kvm_lapic_state apic_of(const Vmm& vmm) {
    kvm_lapic_state apic{};
    EXPECT_EQ(::ioctl(vmm.kvm_vm().vcpu_fds[0], KVM_GET_LAPIC, &apic), 0);
    return apic;
  }
  static std::uint32_t get(const kvm_lapic_state& apic, std::size_t offset) {
    std::uint32_t value = 0;
    std::memcpy(&value, apic.regs + offset, sizeof value);
    return value;
  }
  static void put(kvm_lapic_state& apic, std::size_t offset, std::uint32_t value) {
    std::memcpy(apic.regs + offset, &value, sizeof value);
  }
};

TEST_F(IdentityTest, AGuestKeepsItsIdWhereverItGoesAndWhenItRestarts) {
  const auto here = run(make());
  const auto id = here->generation_id();
  ASSERT_TRUE(id);
  EXPECT_EQ(id_in_memory(*here), *id);
  order(*here, Order::kReset);
  ASSERT_TRUE(eventually([&] { return value(*here, &Shared::starts) == 2; }));
  ASSERT_TRUE(here->pause());
  EXPECT_EQ(here->generation_id(), id);
  EXPECT_EQ(id_in_memory(*here), *id);

  listen(*here);
  const Arrival there = arrive(here, arrival());
  ASSERT_TRUE(there.target->start(RunState::kPaused));
  EXPECT_EQ(there.vmm->generation_id(), id);
  EXPECT_EQ(id_in_memory(*there.vmm), *id);
  EXPECT_FALSE(was_interrupted(*there.vmm));
  ASSERT_TRUE(there.vmm->resume());
  expect_progress(*there.vmm);
}

TEST_F(IdentityTest, EachCopyHasAnIdOfItsOwnAndIsTold) {
  const auto here = run(make());
  expect_progress(*here);
  ASSERT_TRUE(here->pause());
  listen(*here);
  const auto id = here->generation_id();
  std::optional<GenerationId> before = id;
  for (int copy = 0; copy < 2; ++copy) {
    const Arrival there = arrive(here, as_another());
    // Whatever starts it finds it changed.
    ASSERT_TRUE(there.target->start(RunState::kPaused));
    const auto renewed = there.vmm->generation_id();
    ASSERT_TRUE(renewed);
    EXPECT_NE(renewed, id);
    EXPECT_NE(renewed, before);
    EXPECT_EQ(id_in_memory(*there.vmm), *renewed);
    EXPECT_TRUE(was_interrupted(*there.vmm));
    before = renewed;
    ASSERT_TRUE(there.vmm->resume());
    expect_progress(*there.vmm);
    EXPECT_EQ(there.vmm->renew_identity().error().code, ErrorCode::kBusy);
    // Where it goes next it is the same still.
    ASSERT_TRUE(there.vmm->pause());
    const Arrival next = arrive(there.vmm, arrival());
    EXPECT_EQ(next.vmm->generation_id(), renewed);
    EXPECT_EQ(id_in_memory(*next.vmm), *renewed);
  }
  EXPECT_EQ(here->generation_id(), id);
  EXPECT_EQ(id_in_memory(*here), *id);
}

/// It has no place for an id, and nobody's memory is written.
TEST_F(IdentityTest, AGuestOfAnEarlierVersionComesWithoutAnId) {
  const auto here = run(make());
  expect_progress(*here);
  ASSERT_TRUE(here->pause());
  const auto id = here->generation_id();
  const Arrival same = arrive(here, arrival(), std::string(kGenerationSection));
  ASSERT_TRUE(same.target->start(RunState::kPaused));
  EXPECT_FALSE(same.vmm->generation_id());
  ASSERT_TRUE(same.hooks->yield());
  const Arrival other = arrive(here, as_another(), std::string(kGenerationSection));
  ASSERT_TRUE(other.target->start(RunState::kRunning));
  EXPECT_TRUE(other.vmm->generation_id());
  EXPECT_EQ(id_in_memory(*other.vmm), *id) << "as it was";
  expect_progress(*other.vmm);
  // It learns of it when it begins anew here.
  order(*other.vmm, Order::kReset);
  ASSERT_TRUE(eventually([&] { return value(*other.vmm, &Shared::starts) == 2; }));
  expect_progress(*other.vmm);
  EXPECT_EQ(id_in_memory(*other.vmm), *other.vmm->generation_id());
}

TEST_F(IdentityTest, AnIdOutsideOfMemoryIsRefused) {
  const auto here = make();
  Move leaving(here);
  const auto description = leaving.source().describe();
  ASSERT_TRUE(description);
  VmmTargetHooks hooks(as_another());
  const auto target = make_kvm_target(here->kvm_vm().kvm_fd, hooks);
  ASSERT_TRUE(target->prepare(*description));
  Sections state;
  Recorder recorder(state);
  ASSERT_TRUE(leaving.source().save_state(recorder));
  for (auto& section : state) {
    if (section.info.name == kGenerationSection) section.body[16 + 7] = std::byte{0xff};
  }
  Player player(state);
  EXPECT_EQ(target->load_state(player).error().code, ErrorCode::kProtocol);
}

}  // namespace
}  // namespace migrate::vmm
