#include "postcopy/fault_times.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace migrate::postcopy {
namespace {

using std::chrono::microseconds;

TEST(FaultTimes, WithoutFaultsAllIsZero) {
  const FaultTimes times;
  EXPECT_EQ(times.count(), 0u);
  EXPECT_EQ(times.quantile_us(0.5), 0);
  EXPECT_EQ(times.max_us(), 0);
  EXPECT_TRUE(times.stall_us_by_thread().empty());
}

TEST(FaultTimes, QuantilesAreWithinTwoPercentOfThoseOfAllTimes) {
  std::mt19937_64 random(11);
  std::lognormal_distribution<double> spread(10, 3);
  FaultTimes times;
  std::vector<double> all;
  for (int i = 0; i < 5000; ++i) {
    const auto ns = static_cast<std::int64_t>(spread(random)) + 1;
    times.note_fault(nanoseconds(ns));
    all.push_back(static_cast<double>(ns) / 1000);
  }
  std::sort(all.begin(), all.end());
  for (const double share : {0.01, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const double exact = all[static_cast<std::size_t>(std::ceil(share * 5000)) - 1];
    EXPECT_NEAR(times.quantile_us(share), exact, exact * 0.02) << share;
  }
  EXPECT_DOUBLE_EQ(times.max_us(), all.back());
  EXPECT_EQ(times.count(), 5000u);
}

TEST(FaultTimes, TimesOfAnyLengthHaveABucket) {
  FaultTimes times;
  times.note_fault(nanoseconds(-5));
  times.note_fault(nanoseconds(0));
  times.note_fault(nanoseconds::max());
  EXPECT_EQ(times.quantile_us(0.5), 0);
  EXPECT_NEAR(times.quantile_us(1) / times.max_us(), 1, 0.02);
}

TEST(FaultTimes, StallsAddUpByThread) {
  FaultTimes times;
  times.note_stall(9, microseconds(5));
  times.note_stall(4, microseconds(1));
  times.note_stall(9, microseconds(7));
  times.note_stall(0, microseconds(100));
  EXPECT_THAT(times.stall_us_by_thread(),
              ::testing::ElementsAre(std::pair(4, 1.0), std::pair(9, 12.0)));
}

}  // namespace
}  // namespace migrate::postcopy
