#include "base/rate_limiter.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

namespace migrate {
namespace {

using namespace std::chrono_literals;

const RateLimiter::Time kStart{1000s};

TEST(RateLimiter, NoLimitNeverWaits) {
  RateLimiter limiter(0, 0ns);
  EXPECT_EQ(limiter.reserve(1ull << 40, kStart), 0ns);
}

TEST(RateLimiter, ItBeginsEmpty) {
  RateLimiter limiter(1'000'000, 1ms);
  EXPECT_EQ(limiter.reserve(1000, kStart), 1ms);
  EXPECT_EQ(limiter.reserve(500, kStart), 1500us);
  EXPECT_EQ(limiter.reserve(500, kStart + 2ms), 0ns);
}

TEST(RateLimiter, APauseEarnsNoMoreThanTheBurst) {
  RateLimiter limiter(1'000'000, 1ms);
  EXPECT_EQ(limiter.reserve(1000, kStart), 1ms);
  EXPECT_EQ(limiter.reserve(3000, kStart + 1h), 2ms);
}

TEST(RateLimiter, WhoSleepsTooLongCatchesUp) {
  RateLimiter limiter(1'000'000, 5ms);
  RateLimiter::Time now = kStart;
  // Each waits 3 ms more than it was told.
  for (int i = 0; i < 1000; ++i) now += limiter.reserve(10'000, now) + 3ms;
  EXPECT_NEAR(std::chrono::duration<double>(now - kStart).count(), 10.0, 0.004);
}

TEST(RateLimiter, LongRunKeepsTheRate) {
  constexpr std::uint64_t kBatch = 1'048'576 + 4242;
  for (const std::uint64_t rate : {12'500'000ull, 125'000'000ull, 1'250'000'000ull}) {
    RateLimiter limiter(rate, 20ms);
    RateLimiter::Time now = kStart;
    std::uint64_t sent = 0;
    for (int i = 0; i < 100'000; ++i) {
      now += limiter.reserve(kBatch, now);
      sent += kBatch;
    }
    const double seconds = std::chrono::duration<double>(now - kStart).count();
    // Rounding is at most 1 ns a batch of 0.8 ms or more.
    EXPECT_NEAR(static_cast<double>(sent) / seconds / static_cast<double>(rate), 1, 2e-5);
  }
}

/// In any stretch of time no more leaves than the rate, the burst and one booking make.
TEST(RateLimiter, NoStretchOfTimeHoldsMoreThanTheBurstOnTop) {
  constexpr std::uint64_t kRate = 1'000'000;
  RateLimiter limiter(kRate, 2ms);
  std::vector<std::pair<RateLimiter::Time, std::uint64_t>> left;
  RateLimiter::Time now = kStart;
  for (int i = 0; i < 600; ++i) {
    if (i % 37 == 0) now += 1s;  // Nothing to send for a while.
    const std::uint64_t bytes = 100 + static_cast<std::uint64_t>(i) * 7919 % 1400;
    now += limiter.reserve(bytes, now);
    left.emplace_back(now, bytes);
  }
  for (std::size_t first = 0; first < left.size(); ++first) {
    double bytes = 0;
    for (std::size_t last = first; last < left.size(); ++last) {
      bytes += static_cast<double>(left[last].second);
      const double seconds =
          std::chrono::duration<double>(left[last].first - left[first].first).count();
      ASSERT_LE(bytes, kRate * (seconds + 0.002) + 1500 + 1) << first << " to " << last;
    }
  }
}

TEST(RateLimiter, LanesShareOneBucketAndTolerateOldClockReadings) {
  RateLimiter limiter(1'000'000, 0ns);
  EXPECT_EQ(limiter.reserve(1000, kStart + 10us), 1ms);
  // Read its clock 10 us before the other lane booked: both bookings end at +2.01 ms.
  EXPECT_EQ(limiter.reserve(1000, kStart), 2ms + 10us);
}

TEST(RateLimiter, LanesThatWantAsMuchGetAsMuch) {
  constexpr std::size_t kLanes = 8;
  RateLimiter limiter(125'000'000, 20ms);
  std::array<RateLimiter::Time, kLanes> ready;
  std::array<std::uint64_t, kLanes> sent{};
  ready.fill(kStart);
  while (ready.front() < kStart + 10s) {
    // Who is ready first asks first; each needs some time of its own for a batch.
    const auto next = std::min_element(ready.begin(), ready.end());
    const auto lane = static_cast<std::size_t>(next - ready.begin());
    *next += limiter.reserve(1'000'000, *next) + 100us * (lane + 1);
    sent[lane] += 1'000'000;
  }
  const auto [least, most] = std::minmax_element(sent.begin(), sent.end());
  EXPECT_LE(*most - *least, 1'000'000u);
  EXPECT_NEAR(static_cast<double>(std::accumulate(sent.begin(), sent.end(), std::uint64_t{0})),
              1.25e9, 10e6);
}

TEST(RateLimiter, ANewRateHoldsFromNowOn) {
  RateLimiter limiter(1'000'000, 0ns);
  EXPECT_EQ(limiter.reserve(1000, kStart), 1ms);
  limiter.set_rate(2'000'000, kStart);
  EXPECT_EQ(limiter.rate(), 2'000'000u);
  EXPECT_EQ(limiter.reserve(1000, kStart), 1ms);
  limiter.set_rate(0, kStart);
  EXPECT_EQ(limiter.reserve(1 << 30, kStart), 0ns);
  limiter.set_rate(1'000, kStart + 1s);
  EXPECT_EQ(limiter.reserve(1, kStart + 1s), 1ms);
}

TEST(RateLimiter, WhatWasEarnedAtAHighRateIsNotSpentAtALowOne) {
  RateLimiter limiter(1'000'000'000, 10ms);
  EXPECT_EQ(limiter.reserve(1'000'000, kStart), 1ms);
  limiter.set_rate(1'000'000, kStart + 1s);
  EXPECT_EQ(limiter.reserve(1'010'000, kStart + 1s), 1s);
}

TEST(RateLimiter, AWaitIsBounded) {
  RateLimiter limiter(1, 0ns);
  EXPECT_EQ(limiter.reserve(~0ull, kStart), 24h);
}

}  // namespace
}  // namespace migrate
