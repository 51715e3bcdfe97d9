#include "adapters/kvm/vmm/devices/guest_ram.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/vmm_devices/device_fixture.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t kEnd = TestRam::kSlotBytes;

TEST(GuestRam, OnlyWhatLiesInOneSlotCanBeReached) {
  TestRam memory;
  const GuestRam& ram = memory.ram();
  EXPECT_TRUE(ram.contains(GuestAddr{0}, kEnd, true));
  EXPECT_TRUE(ram.contains(GuestAddr{TestRam::kHigh}, kEnd, true));
  EXPECT_FALSE(ram.contains(GuestAddr{0}, kEnd + 1, false));
  EXPECT_FALSE(ram.contains(GuestAddr{1}, kEnd, false));
  EXPECT_FALSE(ram.contains(GuestAddr{kEnd}, 1, false));
  EXPECT_FALSE(ram.contains(GuestAddr{TestRam::kHigh - 1}, 2, false));
  EXPECT_FALSE(ram.contains(GuestAddr{1}, ~0ull, false));
  EXPECT_FALSE(ram.contains(GuestAddr{~0ull}, 1, false));
  EXPECT_FALSE(ram.contains(GuestAddr{TestRam::kHigh + kEnd}, 0, false));
}

TEST(GuestRam, NeighbouringSlotsAreNotOne) {
  TestRam memory;
  memory.slots()[1].guest_address = GuestAddr{kEnd};
  const GuestRam ram(memory.slots(), nullptr);
  EXPECT_TRUE(ram.contains(GuestAddr{kEnd}, 1, false));
  EXPECT_FALSE(ram.contains(GuestAddr{kEnd - 1}, 2, false));
}

TEST(GuestRam, ReadOnlySlotsAreNotWritten) {
  TestRam memory;
  memory.slots()[1].read_only = true;
  const GuestRam ram(memory.slots(), nullptr);
  EXPECT_TRUE(ram.read<std::uint32_t>(GuestAddr{TestRam::kHigh}));
  EXPECT_FALSE(ram.write(GuestAddr{TestRam::kHigh}, std::vector<std::byte>(4)));
  EXPECT_FALSE(ram.store_u16(GuestAddr{TestRam::kHigh}, 1, std::memory_order_release));
}

TEST(GuestRam, WhatIsWrittenIsThereAndMarked) {
  TestRam memory;
  const std::vector<std::byte> bytes(kPageSize + 2, std::byte{7});
  ASSERT_TRUE(memory.ram().write(GuestAddr{TestRam::kHigh + kPageSize - 1}, bytes));
  EXPECT_EQ(memory.peek<std::uint8_t>(TestRam::kHigh + kPageSize - 1), 7);
  EXPECT_EQ(memory.peek<std::uint8_t>(TestRam::kHigh + 2 * kPageSize), 7);
  EXPECT_EQ(memory.peek<std::uint8_t>(TestRam::kHigh + 2 * kPageSize + 1), 0);
  EXPECT_THAT(memory.take_marked(), ElementsAre(256, 257, 258));
  ASSERT_TRUE(memory.ram().store_u16(GuestAddr{6}, 0x1234, std::memory_order_release));
  EXPECT_EQ(memory.peek<std::uint16_t>(6), 0x1234);
  EXPECT_THAT(memory.take_marked(), ElementsAre(0));
}

TEST(GuestRam, NothingIsMarkedByReadingOrByWritesThatAreRefused) {
  TestRam memory;
  EXPECT_TRUE(memory.ram().read<std::uint64_t>(GuestAddr{8}));
  EXPECT_FALSE(memory.ram().write(GuestAddr{kEnd - 1}, std::vector<std::byte>(2)));
  EXPECT_FALSE(memory.ram().read<std::uint64_t>(GuestAddr{kEnd - 7}));
  EXPECT_THAT(memory.take_marked(), IsEmpty());
}

TEST(GuestRam, IndicesAtOddAddressesAreRefused) {
  TestRam memory;
  EXPECT_FALSE(memory.ram().load_u16(GuestAddr{3}, std::memory_order_acquire));
  EXPECT_FALSE(memory.ram().store_u16(GuestAddr{3}, 1, std::memory_order_release));
}

}  // namespace
}  // namespace migrate::vmm::test
