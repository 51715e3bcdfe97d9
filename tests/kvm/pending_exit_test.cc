// An access that left the guest is completed before state is saved: not repeated, not lost.
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tests/kvm/tiny_guest.hpp"

namespace migrate {
namespace {

using testing::TinyGuest;

constexpr std::uint64_t kCode = 0x3000;
constexpr std::uint64_t kNoMemory = 0x20000000;  ///< Mapped for the guest, but not a slot.

/// A guest that does one access and then spins; run by the test's own thread.
class OneAccess {
 public:
  explicit OneAccess(std::initializer_list<std::uint8_t> access) {
    auto* code = reinterpret_cast<std::uint8_t*>(guest_.page(kCode / kPageSize));
    code = std::copy(access.begin(), access.end(), code);
    *code++ = 0xeb;  // jmp to itself.
    *code = 0xfe;
    kvm_regs regs = registers();
    regs.rip = kCode;
    regs.rbx = kNoMemory;
    regs.rax = 0;
    EXPECT_EQ(::ioctl(vcpu(), KVM_SET_REGS, &regs), 0);
  }
  [[nodiscard]] kvm_regs registers() const {
    kvm_regs regs{};
    EXPECT_EQ(::ioctl(vcpu(), KVM_GET_REGS, &regs), 0);
    return regs;
  }
  /// Runs until the guest leaves: why.
  std::uint32_t run() {
    EXPECT_EQ(::ioctl(vcpu(), KVM_RUN, 0), 0) << std::strerror(errno);
    return state()->exit_reason;
  }
  [[nodiscard]] int vcpu() const { return guest_.vm().vcpu_fds.front(); }
  [[nodiscard]] kvm_run* state() const { return guest_.run_area(0); }

 private:
  TinyGuest guest_;
};

TEST(PendingExit, AReadOfDeviceMemoryIsCompletedWithTheDevicesAnswer) {
  MIGRATE_NEEDS_KVM();
  OneAccess guest({0x8b, 0x03});  // mov eax, [rbx]
  ASSERT_EQ(guest.run(), std::uint32_t{KVM_EXIT_MMIO});
  ASSERT_EQ(guest.state()->mmio.phys_addr, kNoMemory);
  const std::uint32_t answer = 0x12345678;
  std::memcpy(guest.state()->mmio.data, &answer, sizeof answer);
  const auto completed = complete_pending_exit(guest.vcpu(), guest.state());
  ASSERT_TRUE(completed) << completed.error().to_text();
  EXPECT_TRUE(*completed);
  EXPECT_EQ(guest.registers().rax, answer);
  EXPECT_EQ(guest.registers().rip, kCode + 2);
}

TEST(PendingExit, AReadOfAPortIsCompletedWithTheDevicesAnswer) {
  MIGRATE_NEEDS_KVM();
  OneAccess guest({0xe4, 0x99});  // in al, 0x99
  ASSERT_EQ(guest.run(), std::uint32_t{KVM_EXIT_IO});
  auto* data = reinterpret_cast<std::uint8_t*>(guest.state()) + guest.state()->io.data_offset;
  *data = 0x5a;
  const auto completed = complete_pending_exit(guest.vcpu(), guest.state());
  ASSERT_TRUE(completed && *completed);
  EXPECT_EQ(guest.registers().rax & 0xff, 0x5aU);
  EXPECT_EQ(guest.registers().rip, kCode + 2);
}

TEST(PendingExit, AWriteToAPortIsNotRepeated) {
  MIGRATE_NEEDS_KVM();
  OneAccess guest({0xe6, 0x99});  // out 0x99, al
  ASSERT_EQ(guest.run(), std::uint32_t{KVM_EXIT_IO});
  const auto completed = complete_pending_exit(guest.vcpu(), guest.state());
  ASSERT_TRUE(completed && *completed);
  EXPECT_EQ(guest.registers().rip, kCode + 2);
}

TEST(PendingExit, NothingPendingIsHarmlessAndTheKickFlagStaysAsItWas) {
  MIGRATE_NEEDS_KVM();
  OneAccess guest({0x90});
  for (const std::uint8_t kicked : {std::uint8_t{0}, std::uint8_t{1}}) {
    guest.state()->immediate_exit = kicked;
    const auto completed = complete_pending_exit(guest.vcpu(), guest.state());
    ASSERT_TRUE(completed && *completed);
    EXPECT_EQ(guest.registers().rip, kCode);
    EXPECT_EQ(guest.state()->immediate_exit, kicked);
  }
}

TEST(PendingExit, ADescriptorThatIsNoVcpusIsAnError) {
  MIGRATE_NEEDS_KVM();
  OneAccess guest({0x90});
  EXPECT_FALSE(complete_pending_exit(-1, guest.state()));
}

}  // namespace
}  // namespace migrate
