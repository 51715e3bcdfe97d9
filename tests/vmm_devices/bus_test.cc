#include "adapters/kvm/vmm/devices/bus.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace migrate::vmm {
namespace {

/// Remembers the last access.
class Recorder final : public IoDevice {
 public:
  void read(std::uint64_t offset, std::span<std::byte> into) override {
    offset_ = offset;
    for (std::byte& byte : into) byte = std::byte{0x5a};
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    offset_ = offset;
    written_ = from.size();
  }
  std::uint64_t offset_ = 0;
  std::size_t written_ = 0;
};

TEST(Bus, AnAccessReachesItsDeviceWithTheOffset) {
  Bus bus("port");
  Recorder low;
  Recorder high;
  ASSERT_TRUE(bus.add(0x3f8, 8, low));
  ASSERT_TRUE(bus.add(0x400, 4, high));
  std::byte value{};
  EXPECT_TRUE(bus.read(0x3fd, std::span(&value, 1)));
  EXPECT_EQ(value, std::byte{0x5a});
  EXPECT_EQ(low.offset_, 5u);
  const std::byte two[2] = {};
  EXPECT_TRUE(bus.write(0x402, two));
  EXPECT_EQ(high.offset_, 2u);
  EXPECT_EQ(high.written_, 2u);
}

TEST(Bus, WhereNothingIsReadsAreAllOnes) {
  Bus bus("port");
  Recorder device;
  ASSERT_TRUE(bus.add(0x3f8, 8, device));
  for (const std::uint64_t address : {0ull, 0x3f5ull, 0x400ull, 0x3feull, ~0ull}) {
    std::byte bytes[4] = {};
    EXPECT_FALSE(bus.read(address, bytes)) << address;
    for (const std::byte byte : bytes) EXPECT_EQ(byte, std::byte{0xff}) << address;
    EXPECT_FALSE(bus.write(address, bytes)) << address;
  }
  EXPECT_EQ(device.written_, 0u);
}

TEST(Bus, OverlapsAndImpossibleRangesAreRefused) {
  Bus bus("address");
  Recorder device;
  ASSERT_TRUE(bus.add(0x1000, 0x1000, device));
  for (const auto& [first, bytes] : {std::pair{0x1000ull, 1ull},
                                     {0xfffull, 2ull},
                                     {0x1fffull, 1ull},
                                     {0ull, ~0ull},
                                     {0x5000ull, 0ull},
                                     {~0ull, 2ull}}) {
    const Status added = bus.add(first, bytes, device);
    ASSERT_FALSE(added) << first;
    EXPECT_EQ(added.error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_TRUE(bus.add(0x2000, 1, device));
  EXPECT_TRUE(bus.add(0xfff, 1, device));
  EXPECT_TRUE(bus.add(std::numeric_limits<std::uint64_t>::max(), 1, device));
}

}  // namespace
}  // namespace migrate::vmm
