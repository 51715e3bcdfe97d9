#include "precopy/page_cost.hpp"

#include <gtest/gtest.h>

namespace migrate::precopy {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kGbit = 125'000'000;

/// A round of `pages` whole pages on one lane that took `took`, `held_back` of it by the limiter.
RoundOutcome round_of(std::uint64_t pages, milliseconds took, milliseconds held_back) {
  RoundOutcome round;
  round.looked_at = round.bulk.raw = pages;
  round.bulk.wire_bytes = pages * kPageSize;
  round.took = round.bulk.busy = took;
  round.bulk.held_back = held_back;
  round.bulk.sending = took - held_back;
  return round;
}

double per_page(double ms, std::uint64_t pages) { return ms / static_cast<double>(pages); }

TEST(PageCost, WithoutLimitsTheRoundsSayWhatThePagesCost) {
  PageCost cost({}, false);
  cost.note(round_of(10'000, milliseconds(100), milliseconds(0)), 1);
  EXPECT_DOUBLE_EQ(cost.in_round(), per_page(100, 10'000));
  EXPECT_DOUBLE_EQ(cost.in_switchover(), cost.in_round());
}

TEST(PageCost, TheLimitHoldsForTheSwitchoverTooWhereItHasNone) {
  PageCost cost({kGbit, kGbit}, false);
  // Too few pages to measure by.
  cost.note(round_of(100, milliseconds(1), milliseconds(0)), 1);
  EXPECT_DOUBLE_EQ(cost.in_round(), 1000.0 * kPageSize / kGbit);
  EXPECT_DOUBLE_EQ(cost.in_switchover(), cost.in_round());
}

TEST(PageCost, ALargerLimitInTheSwitchoverMakesPagesCheaperThere) {
  PageCost cost({kGbit, 10 * kGbit}, false);
  // 40.96 MB at 1 Gbit/s: 328 ms, nearly all of it waiting.
  cost.note(round_of(10'000, milliseconds(328), milliseconds(320)), 1);
  EXPECT_DOUBLE_EQ(cost.in_round(), per_page(328, 10'000));
  EXPECT_DOUBLE_EQ(cost.in_switchover(), 1000.0 * kPageSize / (10 * kGbit));
}

TEST(PageCost, ButNotCheaperThanTheLanesOwnWork) {
  PageCost cost({kGbit, 10 * kGbit}, false);
  cost.note(round_of(10'000, milliseconds(328), milliseconds(128)), 1);
  EXPECT_DOUBLE_EQ(cost.in_switchover(), per_page(200, 10'000));
}

TEST(PageCost, LanesWaitBesideEachOther) {
  PageCost cost({kGbit, 10 * kGbit}, false);
  cost.note(round_of(10'000, milliseconds(400), milliseconds(400)), 4);
  EXPECT_DOUBLE_EQ(cost.in_switchover(), per_page(300, 10'000));
}

TEST(PageCost, ASmallerLimitInTheSwitchoverMakesPagesDearer) {
  for (const std::uint64_t round_limit : {std::uint64_t{0}, 10 * kGbit}) {
    PageCost cost({round_limit, kGbit}, false);
    cost.note(round_of(10'000, milliseconds(40), milliseconds(0)), 1);
    EXPECT_DOUBLE_EQ(cost.in_round(), per_page(40, 10'000));
    EXPECT_DOUBLE_EQ(cost.in_switchover(), 1000.0 * kPageSize / kGbit);
  }
}

// The link may be no faster than the rounds' limit: nobody has said so, nothing has shown it.
TEST(PageCost, NoLimitInTheSwitchoverPromisesNothing) {
  PageCost cost({kGbit, 0}, false);
  cost.note(round_of(10'000, milliseconds(328), milliseconds(320)), 1);
  EXPECT_DOUBLE_EQ(cost.in_switchover(), cost.in_round());
}

TEST(PageCost, PackedPagesAreCountedAsTheyAreOnTheWire) {
  PageCost cost({10 * kGbit, kGbit}, true);
  RoundOutcome packed = round_of(10'000, milliseconds(40), milliseconds(0));
  packed.bulk.wire_bytes /= 4;
  cost.note(packed, 1);
  EXPECT_DOUBLE_EQ(cost.in_switchover(), 1000.0 * kPageSize / 4 / kGbit);
}

TEST(PageCost, ASmallRoundDoesNotUndoWhatALargeOneSaid) {
  PageCost cost({}, false);
  cost.note(round_of(10'000, milliseconds(100), milliseconds(0)), 1);
  cost.note(round_of(300, milliseconds(100), milliseconds(0)), 1);
  EXPECT_DOUBLE_EQ(cost.in_round(), per_page(100, 10'000));
}

}  // namespace
}  // namespace migrate::precopy
