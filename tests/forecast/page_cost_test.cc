#include "forecast/page_cost.hpp"

#include <gtest/gtest.h>

#include "migrate/memory.hpp"

namespace migrate::forecast {
namespace {

constexpr std::uint64_t kGbit = 125'000'000;

/// A round of `pages` whole pages that took `took` ms, of which each lane held back its part.
CarriedRound round_of(std::uint64_t pages, double took, double held_back) {
  CarriedRound round;
  round.looked_at = round.sent = pages;
  round.wire_bytes = pages * kPageSize;
  round.took_ms = round.busy_ms = took;
  round.held_back_ms = held_back;
  round.sending_ms = took - held_back;
  return round;
}

CarriedRound on_lanes(CarriedRound round, std::size_t lanes) {
  round.lanes = lanes;
  return round;
}

double per_page(double ms, std::uint64_t pages) { return ms / static_cast<double>(pages); }

TEST(PageCost, WithoutLimitsTheRoundsSayWhatThePagesCost) {
  PageCost cost({}, false);
  cost.note(round_of(10'000, 100, 0));
  EXPECT_DOUBLE_EQ(cost.in_round(), per_page(100, 10'000));
  EXPECT_DOUBLE_EQ(cost.in_switchover().p50, cost.in_round());
}

TEST(PageCost, TheLimitHoldsForTheSwitchoverTooWhereItHasNone) {
  PageCost cost({kGbit, kGbit}, false);
  // Too few pages to measure by.
  cost.note(round_of(100, 1, 0));
  EXPECT_DOUBLE_EQ(cost.in_round(), 1000.0 * kPageSize / kGbit);
  EXPECT_DOUBLE_EQ(cost.in_switchover().p50, cost.in_round());
}

TEST(PageCost, ALargerLimitInTheSwitchoverMakesPagesCheaperThere) {
  PageCost cost({kGbit, 10 * kGbit}, false);
  // 40.96 MB at 1 Gbit/s: 328 ms, nearly all of it waiting.
  cost.note(round_of(10'000, 328, 320));
  EXPECT_DOUBLE_EQ(cost.in_round(), per_page(328, 10'000));
  EXPECT_DOUBLE_EQ(cost.in_switchover().p50, 1000.0 * kPageSize / (10 * kGbit));
}

TEST(PageCost, ButNotCheaperThanTheLanesOwnWork) {
  PageCost cost({kGbit, 10 * kGbit}, false);
  cost.note(round_of(10'000, 328, 128));
  EXPECT_DOUBLE_EQ(cost.in_switchover().p50, per_page(200, 10'000));
}

TEST(PageCost, LanesWaitBesideEachOther) {
  PageCost cost({kGbit, 10 * kGbit}, false);
  cost.note(on_lanes(round_of(10'000, 400, 400), 4));
  EXPECT_DOUBLE_EQ(cost.in_switchover().p50, per_page(300, 10'000));
}

TEST(PageCost, ASmallerLimitInTheSwitchoverMakesPagesDearer) {
  for (const std::uint64_t round_limit : {std::uint64_t{0}, 10 * kGbit}) {
    PageCost cost({round_limit, kGbit}, false);
    cost.note(round_of(10'000, 40, 0));
    EXPECT_DOUBLE_EQ(cost.in_round(), per_page(40, 10'000));
    EXPECT_DOUBLE_EQ(cost.in_switchover().p50, 1000.0 * kPageSize / kGbit);
  }
}

// The link may be no faster than the rounds' limit: nobody has said so, nothing has shown it.
TEST(PageCost, NoLimitInTheSwitchoverPromisesNothing) {
  PageCost cost({kGbit, 0}, false);
  cost.note(round_of(10'000, 328, 320));
  EXPECT_DOUBLE_EQ(cost.in_switchover().p50, cost.in_round());
}

TEST(PageCost, PackedPagesAreCountedAsTheyAreOnTheWire) {
  PageCost cost({10 * kGbit, kGbit}, true);
  CarriedRound packed = round_of(10'000, 40, 0);
  packed.wire_bytes /= 4;
  cost.note(packed);
  EXPECT_DOUBLE_EQ(cost.in_switchover().p50, 1000.0 * kPageSize / 4 / kGbit);
}

TEST(PageCost, ASmallRoundDoesNotUndoWhatALargeOneSaid) {
  PageCost cost({}, false);
  cost.note(round_of(10'000, 100, 0));
  cost.note(round_of(300, 100, 0));
  EXPECT_DOUBLE_EQ(cost.in_round(), per_page(100, 10'000));
}

TEST(PageCost, CapacityIsMeasuredWhileTheSocketWasTheBottleneck) {
  PageCost cost({}, false);
  EXPECT_EQ(cost.capacity_bytes_per_s(), 0u);
  // 40.96 MB on two lanes that worked for 300 ms each, of a round that took 400 ms: the link was
  // idle for the rest.
  CarriedRound round = on_lanes(round_of(10'000, 400, 0), 2);
  round.busy_ms = 700;
  round.sending_ms = 100;
  cost.note(round);
  EXPECT_EQ(cost.capacity_bytes_per_s(), 409'600'000u);
  // What fits into socket buffers tells nothing.
  cost.note(round_of(100, 1, 0));
  EXPECT_EQ(cost.capacity_bytes_per_s(), 409'600'000u);
}

TEST(PageCost, TheSpreadFollowsTheRounds) {
  PageCost cost({}, false);
  EXPECT_DOUBLE_EQ(cost.in_switchover().p95, 2 * cost.in_switchover().p50);
  cost.note(round_of(10'000, 100, 0));
  EXPECT_DOUBLE_EQ(cost.in_switchover().p95, 1.2 * per_page(100, 10'000));
  cost.note(round_of(10'000, 150, 0));
  EXPECT_DOUBLE_EQ(cost.in_switchover().p95, 1.2 * per_page(150, 10'000));
  // A round that went well does not undo that one went badly.
  cost.note(round_of(10'000, 100, 0));
  EXPECT_DOUBLE_EQ(cost.in_switchover().p95, per_page(150, 10'000));
}

TEST(PageCost, APolicysLowerRateDoesNotHoldForTheSwitchover) {
  PageCost cost({10 * kGbit, 10 * kGbit}, false);
  cost.set_round_limit(kGbit);
  cost.note(round_of(10'000, 328, 300));
  EXPECT_DOUBLE_EQ(cost.in_round(), per_page(328, 10'000));
  EXPECT_NEAR(cost.in_switchover().p50, 1000.0 * kPageSize / (10 * kGbit), 1e-4);
}

}  // namespace
}  // namespace migrate::forecast
