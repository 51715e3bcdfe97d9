// PaceControl on links that are a few lines of arithmetic.
#include <gtest/gtest.h>

#include <algorithm>

#include "postcopy/pace_control.hpp"

namespace migrate::postcopy {
namespace {

using std::chrono::microseconds;

constexpr double kStepSeconds = 0.01;

/// A link that carries so much, and queues the rest; or a peer that takes no more than so much.
struct Link {
  double capacity = 125e6;
  double peer_takes = 1e12;
  microseconds round_trip_min{30};
  double queued = 0;

  PaceControl::Sample step(double rate) {
    const double came = std::min(rate, peer_takes) * kStepSeconds;
    // A sender has only so much under way, whatever it is allowed.
    const double room = std::max(0.0, 0.05 * capacity + capacity * kStepSeconds - queued);
    const double taken = std::min(came, room);
    queued = std::max(0.0, queued + taken - capacity * kStepSeconds);
    PaceControl::Sample sample;
    sample.took = PaceControl::kStep;
    sample.bytes = static_cast<std::uint64_t>(taken);
    sample.round_trip_min = round_trip_min;
    sample.round_trip =
        round_trip_min + microseconds(static_cast<std::int64_t>(1e6 * queued / capacity));
    return sample;
  }
};

struct Course {
  double bytes = 0;
  double rate_least = 1e15, rate_most = 0;
  int queues = 0;  ///< Steps that ended with a millisecond waiting, more on a long way.
};

Course run(PaceControl& control, Link& link, int steps) {
  Course course;
  for (int i = 0; i < steps; ++i) {
    const auto rate = static_cast<double>(control.bytes_per_s());
    course.rate_least = std::min(course.rate_least, rate);
    course.rate_most = std::max(course.rate_most, rate);
    const PaceControl::Sample sample = link.step(rate);
    course.bytes += static_cast<double>(sample.bytes);
    const auto queue = sample.round_trip - sample.round_trip_min;
    course.queues += queue > microseconds(1000) + link.round_trip_min / 8 ? 1 : 0;
    control.step(sample);
  }
  return course;
}

struct Case {
  double capacity;
  std::uint64_t measured;
  int round_trip_us;
};

class PaceOnALink : public testing::TestWithParam<Case> {};

TEST_P(PaceOnALink, CarriesNearlyAllWithoutAQueue) {
  PaceControl control({.capacity_bytes_per_s = GetParam().measured});
  Link link{.capacity = GetParam().capacity,
            .round_trip_min = microseconds(GetParam().round_trip_us)};
  run(control, link, 200);
  constexpr int kSteps = 1000;
  const Course course = run(control, link, kSteps);
  EXPECT_GT(course.bytes, 0.85 * link.capacity * kStepSeconds * kSteps);
  EXPECT_LT(course.bytes, 0.99 * link.capacity * kStepSeconds * kSteps);
  EXPECT_LT(course.queues, kSteps / 20);
  EXPECT_GT(course.rate_least, 0.5 * link.capacity);
}

INSTANTIATE_TEST_SUITE_P(Links, PaceOnALink,
                         testing::Values(Case{12.5e6, 0, 30}, Case{125e6, 0, 30},
                                         Case{1.25e9, 0, 30}, Case{12.5e9, 0, 30},
                                         Case{125e6, 125'000'000, 30}, Case{125e6, 400'000'000, 30},
                                         Case{125e6, 30'000'000, 30}, Case{125e6, 0, 20'000},
                                         Case{1.25e9, 1'000'000'000, 200}));

TEST(PaceControl, BeginsWithMostOfWhatWasMeasured) {
  EXPECT_EQ(PaceControl({.capacity_bytes_per_s = 1'000'000'000}).bytes_per_s(), 900'000'000u);
}

TEST(PaceControl, FollowsALinkThatOthersTakeAndGiveBack) {
  PaceControl control({});
  Link link{.capacity = 1.25e9};
  run(control, link, 200);
  link.capacity = 0.4e9;
  run(control, link, 200);
  Course course = run(control, link, 100);
  EXPECT_LT(course.rate_most, 1.2 * link.capacity);
  EXPECT_LT(course.queues, 20);
  link.capacity = 1.25e9;
  run(control, link, 200);
  course = run(control, link, 500);
  EXPECT_GT(course.bytes, 0.8 * link.capacity * 500 * kStepSeconds);
}

TEST(PaceControl, LeavesAShareOfAPeerThatTakesNoMore) {
  PaceControl control({});
  Link link{.capacity = 1e12, .peer_takes = 2e9};
  run(control, link, 300);
  const Course course = run(control, link, 1000);
  EXPECT_GT(course.bytes, 0.85 * link.peer_takes * 1000 * kStepSeconds);
  EXPECT_LT(course.bytes, 0.98 * link.peer_takes * 1000 * kStepSeconds);
}

TEST(PaceControl, ForgivesAnAccident) {
  PaceControl control({.capacity_bytes_per_s = 125'000'000});
  Link link{.capacity = 125e6};
  run(control, link, 30);
  const std::uint64_t before = control.bytes_per_s();
  PaceControl::Sample accident = link.step(static_cast<double>(before));
  accident.round_trip += microseconds(900);
  accident.bytes /= 3;
  control.step(accident);
  EXPECT_LT(control.bytes_per_s(), before);
  run(control, link, 5);
  EXPECT_EQ(control.bytes_per_s(), before);
}

TEST(PaceControl, TakesNoQueueForTheLinksThatDeliversMuchFaster) {
  PaceControl control({.capacity_bytes_per_s = 125'000'000});
  Link link{.capacity = 1.25e9};
  const std::uint64_t before = control.bytes_per_s();
  for (int i = 0; i < 300; ++i) {
    PaceControl::Sample sample = link.step(static_cast<double>(control.bytes_per_s()));
    sample.delivered_bytes_per_s = 10'000'000'000;
    if (i % 5 == 0) sample.round_trip += microseconds(500);
    control.step(sample);
    EXPECT_GE(control.bytes_per_s(), before);
  }
}

TEST(PaceControl, DoesNotStarveBehindAQueueThatIsNotItsOwn) {
  PaceControl control({.capacity_bytes_per_s = 125'000'000});
  Link link{.capacity = 125e6};
  run(control, link, 100);
  const std::uint64_t before = control.bytes_per_s();
  for (int i = 0; i < 300; ++i) {
    PaceControl::Sample sample = link.step(static_cast<double>(control.bytes_per_s()));
    sample.round_trip += microseconds(5000);
    control.step(sample);
  }
  EXPECT_GT(control.bytes_per_s(), before / 8);
  PaceControl unknown({});
  for (int i = 0; i < 1000; ++i) {
    PaceControl::Sample sample;
    sample.took = PaceControl::kStep;
    sample.round_trip = microseconds(90'000);
    sample.round_trip_min = microseconds(10);
    unknown.step(sample);
    EXPECT_GE(unknown.bytes_per_s(), 100'000u);
  }
}

TEST(PaceControl, NeverPassesItsLimit) {
  for (const std::uint64_t measured : {std::uint64_t{0}, std::uint64_t{1'250'000'000}}) {
    PaceControl control({.capacity_bytes_per_s = measured, .bytes_per_s_max = 50'000'000});
    Link link{.capacity = 1.25e9};
    const Course course = run(control, link, 500);
    EXPECT_EQ(course.rate_most, 50e6);
    EXPECT_EQ(course.rate_least, 50e6);
  }
}

TEST(PaceControl, LearnsNothingFromLanesWithoutPages) {
  PaceControl control({.capacity_bytes_per_s = 125'000'000});
  const std::uint64_t before = control.bytes_per_s();
  for (int i = 0; i < 500; ++i) {
    PaceControl::Sample sample;
    sample.took = PaceControl::kStep;
    sample.bytes = 1000;
    sample.hungry = true;
    control.step(sample);
  }
  EXPECT_EQ(control.bytes_per_s(), before);
}

}  // namespace
}  // namespace migrate::postcopy
