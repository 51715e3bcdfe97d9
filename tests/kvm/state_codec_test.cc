// State sections: what was saved comes back; anything else is an error, never a crash.
#include "adapters/kvm/state_codec.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace migrate::kvm {
namespace {

VcpuState full_vcpu() {
  VcpuState state;
  state.mp_state.mp_state = KVM_MP_STATE_HALTED;
  state.regs.rip = 0x1234;
  state.sregs2.emplace().cr3 = 0x10000;
  state.xcrs.emplace().nr_xcrs = 1;
  state.xsave.assign(8192, std::byte{3});
  state.debugregs.emplace().dr7 = 0x400;
  state.lapic.emplace().regs[17] = 5;
  state.msrs = {{0x10, 0, 99}, {0x6e0, 0, 7}};
  state.nested.resize(sizeof(kvm_nested_state) + 16);
  const auto size = static_cast<std::uint32_t>(state.nested.size());
  std::memcpy(state.nested.data() + offsetof(kvm_nested_state, size), &size, sizeof size);
  state.one_regs = {{0x2030000300000000, 0x7000}};
  state.mcg_cap = 0x20;
  state.events.nmi.pending = 1;
  state.tsc_khz = 2'600'000;
  state.tsc_offset = -5;
  return state;
}

VmState full_vm() {
  VmState state;
  state.pic_master.emplace().chip_id = KVM_IRQCHIP_PIC_MASTER;
  state.pic_slave.emplace().chip_id = KVM_IRQCHIP_PIC_SLAVE;
  state.ioapic.emplace().chip_id = KVM_IRQCHIP_IOAPIC;
  state.pit.emplace().flags = 1;
  state.clock = {11, 22, 33, true, true};
  state.host_tsc_khz = 44;
  return state;
}

/// Where the blocks of a section begin.
std::vector<std::size_t> block_offsets(const std::vector<std::byte>& bytes) {
  std::vector<std::size_t> offsets;
  for (std::size_t at = 0; at < bytes.size();) {
    offsets.push_back(at);
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data() + at + 4, sizeof length);
    at += 8 + length;
  }
  return offsets;
}

TEST(StateCodec, AVcpuComesBackAsItWas) {
  const std::vector<std::byte> bytes = encode(full_vcpu());
  const auto decoded = decode_vcpu(bytes);
  ASSERT_TRUE(decoded) << decoded.error().to_text();
  EXPECT_EQ(encode(*decoded), bytes);
  EXPECT_EQ(decoded->regs.rip, 0x1234U);
  EXPECT_EQ(decoded->tsc_offset, -5);
  EXPECT_EQ(decoded->msrs.size(), 2U);
  EXPECT_FALSE(decoded->sregs.has_value());
  ASSERT_EQ(decoded->one_regs.size(), 1U);
  EXPECT_EQ(decoded->one_regs[0].value, 0x7000U);
  EXPECT_EQ(decoded->mcg_cap, 0x20U);
}

TEST(StateCodec, AVmComesBackAsItWas) {
  const std::vector<std::byte> bytes = encode(full_vm());
  const auto decoded = decode_vm(bytes);
  ASSERT_TRUE(decoded) << decoded.error().to_text();
  EXPECT_EQ(encode(*decoded), bytes);
  EXPECT_EQ(decoded->clock.host_tsc, 33U);
}

TEST(StateCodec, TruncatedAnywhereIsAnErrorOrLacksABlock) {
  const std::vector<std::byte> vcpu = encode(full_vcpu());
  for (std::size_t length = 0; length < vcpu.size(); ++length) {
    const auto decoded = decode_vcpu(std::span(vcpu).first(length));
    ASSERT_FALSE(decoded) << "cut at byte " << length;
    EXPECT_EQ(decoded.error().code, ErrorCode::kProtocol);
  }
  const std::vector<std::byte> vm = encode(full_vm());
  for (std::size_t length = 0; length < vm.size(); ++length) {
    EXPECT_FALSE(decode_vm(std::span(vm).first(length))) << "cut at byte " << length;
  }
}

TEST(StateCodec, ADamagedBlockHeaderIsAnErrorThatNamesTheByte) {
  const std::vector<std::byte> good = encode(full_vcpu());
  for (const std::size_t offset : block_offsets(good)) {
    for (const std::size_t field : {0U, 2U, 4U, 7U}) {
      std::vector<std::byte> bad = good;
      bad[offset + field] ^= std::byte{0x40};
      const auto decoded = decode_vcpu(bad);
      ASSERT_FALSE(decoded) << "block at " << offset << ", byte " << field;
      EXPECT_NE(decoded.error().message.find("byte "), std::string::npos);
    }
  }
}

TEST(StateCodec, ABlockTwiceIsRefused) {
  std::vector<std::byte> bytes = encode(full_vcpu());
  const std::size_t second = block_offsets(bytes)[1];
  std::vector<std::byte> first_block(bytes.begin(),
                                     bytes.begin() + static_cast<std::ptrdiff_t>(second));
  bytes.insert(bytes.end(), first_block.begin(), first_block.end());
  const auto decoded = decode_vcpu(bytes);
  ASSERT_FALSE(decoded);
  EXPECT_NE(decoded.error().message.find("twice"), std::string::npos);
}

TEST(StateCodec, AnInterruptControllerInAnothersPlaceIsRefused) {
  VmState state = full_vm();
  state.pic_master->chip_id = KVM_IRQCHIP_IOAPIC;
  EXPECT_FALSE(decode_vm(encode(state)));
}

TEST(StateCodec, NestedStateWithASizeNotItsOwnIsRefused) {
  VcpuState state = full_vcpu();
  const std::uint32_t huge = 0xfffffff0;
  std::memcpy(state.nested.data() + offsetof(kvm_nested_state, size), &huge, sizeof huge);
  EXPECT_FALSE(decode_vcpu(encode(state)));
  state.nested.resize(3);
  EXPECT_FALSE(decode_vcpu(encode(state)));
}

TEST(StateCodec, AnXsaveAreaThatIsTooShortIsRefused) {
  VcpuState state = full_vcpu();
  state.xsave.resize(4095);
  EXPECT_FALSE(decode_vcpu(encode(state)));
}

TEST(StateCodec, MoreRegistersThanAKernelHasAreRefused) {
  VcpuState state = full_vcpu();
  state.one_regs.resize(kOneRegsMax + 1);
  EXPECT_FALSE(decode_vcpu(encode(state)));
}

TEST(StateCodec, GarbageIsAnErrorAndNothingWorse) {
  std::mt19937_64 random(20261121);
  const std::vector<std::byte> good = encode(full_vcpu());
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::byte> bytes(random() % 600);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % (i % 2 == 0 ? 4 : 256));
    (void)decode_vcpu(bytes);
    (void)decode_vm(bytes);
    std::vector<std::byte> flipped = good;
    for (int flips = 0; flips < 4; ++flips) {
      flipped[random() % flipped.size()] ^= static_cast<std::byte>(1U << random() % 8);
    }
    (void)decode_vcpu(flipped);
  }
}

}  // namespace
}  // namespace migrate::kvm
