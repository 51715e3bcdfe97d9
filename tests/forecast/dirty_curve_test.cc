#include "forecast/dirty_curve.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace migrate::forecast {
namespace {

TEST(DirtyCurve, KnowsNothingAtFirst) {
  const DirtyCurve curve;
  EXPECT_FALSE(curve.known());
  EXPECT_EQ(curve.after(100), 0);
}

TEST(DirtyCurve, GoesThroughItsSamplesAndTheOrigin) {
  DirtyCurve curve;
  curve.note(10, 100);
  curve.note(100, 400);
  EXPECT_DOUBLE_EQ(curve.after(5), 50);
  EXPECT_DOUBLE_EQ(curve.after(10), 100);
  EXPECT_DOUBLE_EQ(curve.after(55), 250);
  EXPECT_DOUBLE_EQ(curve.after(100), 400);
  // As it rose last, for a while.
  EXPECT_DOUBLE_EQ(curve.after(130), 500);
  EXPECT_DOUBLE_EQ(curve.after(10'000), 600);
}

TEST(DirtyCurve, AHotSetIsOnceWrittenAllDirty) {
  DirtyCurve curve;
  curve.note(10, 900);
  curve.note(100, 1000);
  curve.note(1000, 1000);
  EXPECT_DOUBLE_EQ(curve.after(100'000), 1000);
}

TEST(DirtyCurve, FollowsAGuestThatChanges) {
  DirtyCurve curve;
  for (int i = 0; i < 50; ++i) curve.note(100, 10);
  for (int i = 0; i < 8; ++i) curve.note(100, 1000);
  EXPECT_NEAR(curve.after(100), 1000, 20);
}

TEST(DirtyCurve, NeverFallsAlthoughSamplesDo) {
  DirtyCurve curve;
  curve.note(10, 500);
  curve.note(100, 400);
  EXPECT_DOUBLE_EQ(curve.after(100), 500);
}

// A uniformly written hot set: the curve must find W (1 - exp(-r t / W)) between its samples.
TEST(DirtyCurve, FollowsAUniformHotSet) {
  constexpr double kSet = 65536;
  constexpr double kPagesPerMs = 45;
  const auto expected = [](double ms) { return kSet * (1 - std::exp(-kPagesPerMs * ms / kSet)); };
  DirtyCurve curve;
  for (double ms = 20; ms < 8000; ms += 20) curve.note(ms, expected(ms));
  for (const double ms : {20.0, 90.0, 333.0, 1500.0, 5000.0}) {
    EXPECT_NEAR(curve.after(ms), expected(ms), 0.06 * expected(ms)) << ms;
  }
}

TEST(DirtyCurve, SenselessSamplesAreNoSamples) {
  DirtyCurve curve;
  curve.note(0, 10);
  curve.note(-1, 10);
  curve.note(10, -1);
  curve.note(std::nan(""), 10);
  EXPECT_FALSE(curve.known());
}

}  // namespace
}  // namespace migrate::forecast
