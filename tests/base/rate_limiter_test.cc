#include "base/rate_limiter.hpp"

#include <gtest/gtest.h>

namespace migrate {
namespace {

using namespace std::chrono_literals;

const RateLimiter::Time kStart{1000s};

TEST(RateLimiter, NoLimitNeverWaits) {
  RateLimiter limiter(0, 0);
  EXPECT_EQ(limiter.reserve(1ull << 40, kStart), 0ns);
}

TEST(RateLimiter, ABurstLeavesAtOnceAndTheRestAtTheRate) {
  RateLimiter limiter(1'000'000, 1000);
  EXPECT_EQ(limiter.reserve(1000, kStart), 0ns);
  EXPECT_EQ(limiter.reserve(1000, kStart), 1ms);
  EXPECT_EQ(limiter.reserve(500, kStart), 1500us);
  EXPECT_EQ(limiter.reserve(500, kStart + 2ms), 0ns);
}

TEST(RateLimiter, APauseEarnsNoMoreThanTheBurst) {
  RateLimiter limiter(1'000'000, 1000);
  EXPECT_EQ(limiter.reserve(1000, kStart), 0ns);
  EXPECT_EQ(limiter.reserve(2000, kStart + 1h), 1ms);
}

TEST(RateLimiter, LongRunKeepsTheRate) {
  constexpr std::uint64_t kRate = 1'250'000'000;
  constexpr std::uint64_t kBatch = 1'048'576 + 4242;
  RateLimiter limiter(kRate, kBatch);
  RateLimiter::Time now = kStart;
  std::uint64_t sent = 0;
  for (int i = 0; i < 100'000; ++i) {
    now += limiter.reserve(kBatch, now);
    sent += kBatch;
  }
  const double seconds = std::chrono::duration<double>(now - kStart).count();
  // Rounding is at most 1 ns a batch of 0.8 ms.
  EXPECT_NEAR(static_cast<double>(sent) / seconds, static_cast<double>(kRate), kRate * 2e-5);
}

TEST(RateLimiter, LanesShareOneBucketAndTolerateOldClockReadings) {
  RateLimiter limiter(1'000'000, 0);
  EXPECT_EQ(limiter.reserve(1000, kStart + 10us), 1ms);
  // Read its clock 10 us before the other lane booked: both bookings end at +2.01 ms.
  EXPECT_EQ(limiter.reserve(1000, kStart), 2ms + 10us);
}

TEST(RateLimiter, ANewRateHoldsFromNowOn) {
  RateLimiter limiter(1'000'000, 0);
  EXPECT_EQ(limiter.reserve(1000, kStart), 1ms);
  limiter.set_rate(2'000'000, kStart);
  EXPECT_EQ(limiter.rate(), 2'000'000u);
  EXPECT_EQ(limiter.reserve(1000, kStart), 1ms);
  limiter.set_rate(0, kStart);
  EXPECT_EQ(limiter.reserve(1 << 30, kStart), 0ns);
  limiter.set_rate(1'000, kStart + 1s);
  EXPECT_EQ(limiter.reserve(1, kStart + 1s), 1ms);
}

TEST(RateLimiter, AWaitIsBounded) {
  RateLimiter limiter(1, 0);
  EXPECT_EQ(limiter.reserve(~0ull, kStart), 24h);
}

}  // namespace
}  // namespace migrate
