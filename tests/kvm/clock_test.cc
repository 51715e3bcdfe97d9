// The guest's time goes on at the target where it stood at the source.
#include "adapters/kvm/clock.hpp"

#include <gtest/gtest.h>

#include <random>

namespace migrate::kvm {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

/// A host's TSC and a guest's KVM clock, both running.
ClockReading reading(std::uint64_t clock_ns, std::uint64_t host_tsc) {
  ClockReading result;
  result.clock_ns = clock_ns;
  result.host_tsc = host_tsc;
  result.has_host_tsc = true;
  return result;
}

TEST(GuestClock, CountsCyclesWithoutOverflow) {
  EXPECT_EQ(cycles_in(0, 2'600'000), 0U);
  EXPECT_EQ(cycles_in(1, 2'600'000), 2U);
  EXPECT_EQ(cycles_in(kSecond, 2'600'000), 2'600'000'000U);
  constexpr std::uint64_t kYear = 365ull * 24 * 3600 * kSecond;
  EXPECT_EQ(cycles_in(kYear, 4'000'000), 365ull * 24 * 3600 * 4'000'000'000);
}

TEST(GuestClock, TheTscStaysTheSameFunctionOfTheKvmClock) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 1000; ++i) {
    const auto khz = static_cast<std::uint32_t>(1'000'000 + random() % 4'000'000);
    const ClockReading source = reading(random() % (1000 * kSecond), random() % (1ull << 50));
    const std::uint64_t passed = random() % (5 * kSecond);
    const ClockReading target = reading(source.clock_ns + passed, random() % (1ull << 50));
    const auto offset = static_cast<std::int64_t>(random() % (1ull << 50)) - (1ll << 49);
    const std::int64_t moved = target_tsc_offset(offset, source, target, khz);
    const std::uint64_t guest_tsc_then = source.host_tsc + static_cast<std::uint64_t>(offset);
    const std::uint64_t guest_tsc_now = target.host_tsc + static_cast<std::uint64_t>(moved);
    EXPECT_EQ(guest_tsc_now - guest_tsc_then, cycles_in(passed, khz));
  }
}

TEST(GuestClock, EqualOffsetsStayEqual) {
  const ClockReading source = reading(5 * kSecond, 1'000'000);
  const ClockReading target = reading(5 * kSecond + 123'457, 77'000'000'000);
  EXPECT_EQ(target_tsc_offset(-42, source, target, 2'596'152),
            target_tsc_offset(-42, source, target, 2'596'152));
  // And those that differ keep their distance: the guest set it so.
  EXPECT_EQ(target_tsc_offset(1000, source, target, 2'596'152) -
                target_tsc_offset(-42, source, target, 2'596'152),
            1042);
}

TEST(GuestClock, AClockThatReadsEarlierAtTheTargetTakesTheTscBackWithIt) {
  const ClockReading source = reading(5 * kSecond, 1000);
  const ClockReading target = reading(4 * kSecond, 1000);
  EXPECT_EQ(target_tsc_offset(0, source, target, 1'000'000), -1'000'000'000);
}

TEST(GuestClock, ElapsedTimeIsTrustedOnlyWhileItIsPlausible) {
  ClockReading source;
  source.realtime_ns = 1000 * kSecond;
  EXPECT_EQ(elapsed_ns(source, 1000 * kSecond + 5), 5U);
  EXPECT_EQ(elapsed_ns(source, 999 * kSecond), 0U) << "the target's clock is behind";
  EXPECT_EQ(elapsed_ns(source, 1060 * kSecond), 60 * kSecond);
  EXPECT_EQ(elapsed_ns(source, 1060 * kSecond + 1), 0U) << "too long for a switchover";
  source.realtime_ns = 0;
  EXPECT_EQ(elapsed_ns(source, 1000 * kSecond), 0U) << "the source had no clock";
}

}  // namespace
}  // namespace migrate::kvm
