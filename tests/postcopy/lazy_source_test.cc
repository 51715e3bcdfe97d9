// LazySource, with a target that is a script.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/postcopy/lazy_source_bed.hpp"

namespace migrate::test {
namespace {

using testing::ElementsAre;
using testing::Pair;

// More than sockets of lanes hold.
constexpr std::uint64_t kMany = 8192;

class LazySourceOf : public LazySourceBed, public testing::WithParamInterface<bool> {};

TEST_P(LazySourceOf, PushesEveryPageOnce) {
  make_guest({3000, 1, 700});
  guest_->is_mapped = GetParam();
  make_source();
  attach(3);
  source_->push();
  receive_on_all(total());
  EXPECT_THAT(times(), ElementsAre(Pair(1, total())));
  EXPECT_EQ(source_->pages_left(), 0u);
  source_->detach();
  EXPECT_FALSE(source_->failure());
  expect_ledger_filled();
  const SourceFigures figures = source_->figures();
  EXPECT_EQ(figures.pushed, total());
  EXPECT_EQ(figures.demanded, 0u);
  EXPECT_EQ(figures.zero, 1000u + 1 + 234);
  EXPECT_EQ(figures.raw + figures.zero, total());
  EXPECT_GT(figures.wire_bytes, figures.raw * kPageSize);
  EXPECT_LT(figures.wire_bytes, figures.raw * kPageSize * 102 / 100);
}

TEST_P(LazySourceOf, AnswersDemandsWhileNobodyReadsTheBulkLanes) {
  make_guest({kMany});
  guest_->is_mapped = GetParam();
  make_source();
  attach(2);
  source_->push();
  for (std::uint64_t page = kMany - 2; page > kMany - 200; page -= 2) {
    ASSERT_TRUE(demand({{{0}, page, 2}}));
    const auto answer = receive(*urgent_);
    ASSERT_TRUE(answer) << answer.error().to_text();
    EXPECT_THAT(answer->pages, ElementsAre(page, page + 1));
  }
  // Its threads wait in the sockets.
  source_->detach();
  EXPECT_FALSE(source_->failure());
  EXPECT_EQ(source_->figures().demanded, 198u);
}

INSTANTIATE_TEST_SUITE_P(Memory, LazySourceOf, testing::Bool(),
                         [](const auto& of) { return of.param ? "Mapped" : "Read"; });

using LazySourceTest = LazySourceBed;

TEST_F(LazySourceTest, SendsWhatIsFirstBeforeThePush) {
  make_guest({1000});
  work_.first.set(guest_->all()[0].id, guest_->range(0, 400, 5));
  work_.first.set(guest_->all()[0].id, guest_->range(0, 800, 1));
  make_source();
  attach(1);
  const auto first = receive(*far_[0]);
  ASSERT_TRUE(first);
  EXPECT_THAT(first->pages, ElementsAre(400, 401, 402, 403, 404, 800));
  EXPECT_EQ(source_->pages_left(), 994u);
  source_->push();
  receive_on_all(994);
  EXPECT_THAT(times(), ElementsAre(Pair(1, total())));
}

TEST_F(LazySourceTest, DoesNotPushWhatWasDemanded) {
  make_guest({1000});
  make_source();
  attach(1);
  ASSERT_TRUE(demand({{{0}, 100, 50}, {{0}, 999, 1}}));
  receive_pages(*urgent_, 51);
  // What follows is answered once the books are done for what came before.
  ASSERT_TRUE(demand({{{0}, 100, 1}}));
  receive_pages(*urgent_, 1);
  source_->push();
  receive_on_all(949);
  EXPECT_THAT(times(), ElementsAre(Pair(1, 999), Pair(2, 1)));
  source_->detach();
  EXPECT_EQ(source_->figures().demanded, 52u);
  EXPECT_EQ(source_->figures().pushed, 949u);
}

TEST_F(LazySourceTest, AnswersAgainForWhatHasBeenSent) {
  make_guest({100});
  make_source();
  attach(1);
  source_->push();
  receive_on_all(100);
  ASSERT_TRUE(demand({{{0}, 0, 100}}));
  receive_pages(*urgent_, 100);
  EXPECT_THAT(times(), ElementsAre(Pair(2, 100)));
}

TEST_F(LazySourceTest, AnswersForPagesThatWereNeverMissing) {
  make_guest({100});
  work_.missing.clear(guest_->all()[0].id, guest_->range(0, 0, 50));
  make_source();
  attach(1);
  ASSERT_TRUE(demand({{{0}, 10, 2}}));
  receive_pages(*urgent_, 2);
  EXPECT_EQ(source_->pages_left(), 50u);
}

TEST_F(LazySourceTest, GoesOnAfterALostLinkWithWhatHasNotCome) {
  make_guest({kMany, 100});
  make_source();
  attach(2);
  source_->push();
  receive_pages(*far_[0], 500);
  receive_pages(*far_[1], 300);
  // What is under way is lost.
  far_.clear();
  urgent_.reset();
  EXPECT_EQ(wait_for_failure(), ErrorCode::kLinkLost);
  source_->detach();
  const PageBitmap missing = still_missing();
  source_->still_missing(missing);
  EXPECT_EQ(source_->pages_left(), missing.count());
  EXPECT_EQ(failures_, 1);
  attach(3);
  EXPECT_FALSE(source_->failure());
  receive_on_all(missing.count());
  EXPECT_THAT(times(), ElementsAre(Pair(1, total())));
  source_->detach();
  expect_ledger_filled();
}

TEST_F(LazySourceTest, RefusesDemandsOfWhatThereIsNot) {
  const std::vector<wire::Demand::Pages> wrong = {{{2}, 0, 1}, {{0}, 1000, 1}, {{0}, 999, 2},
                                                  {{1}, 1, 1}, {{1}, 0, 100},  {{1}, 512, 256}};
  for (const auto& pages : wrong) {
    SCOPED_TRACE(pages.first);
    make_guest({1000, 2048});
    work_.granules = {{{1}, 512}};
    failures_ = 0;
    make_source();
    attach(1);
    ASSERT_TRUE(demand({{{0}, 5, 1}, pages}));
    receive_pages(*urgent_, 1);
    EXPECT_EQ(wait_for_failure(), ErrorCode::kProtocol);
    source_.reset();
  }
}

TEST_F(LazySourceTest, RefusesOtherRecordsOnTheUrgentLane) {
  make_guest({100});
  make_source();
  attach(1);
  ASSERT_TRUE(urgent_->send(wire::Commit{1}, kLong));
  EXPECT_EQ(wait_for_failure(), ErrorCode::kProtocol);
}

TEST_F(LazySourceTest, SendsGranulesWhole) {
  make_guest({5 * 512, 100});
  work_.granules = {{{0}, 512}};
  make_source();
  attach(1);
  ASSERT_TRUE(demand({{{0}, 1024, 512}}));
  const auto answer = receive(*urgent_);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->pages.size(), 512u);
  source_->push();
  std::uint64_t got = 512;
  while (got < total()) {
    const auto arrived = receive(*far_[0]);
    ASSERT_TRUE(arrived);
    got += arrived->pages.size();
    if (arrived->region != 0) continue;
    EXPECT_EQ(arrived->pages.front() % 512, 0u);
    EXPECT_EQ(arrived->pages.size() % 512, 0u);
  }
  EXPECT_THAT(times(), ElementsAre(Pair(1, total())));
}

TEST_F(LazySourceTest, FailsWhereMemoryCannotBeRead) {
  for (const bool gone : {false, true}) {
    SCOPED_TRACE(gone);
    make_guest({100});
    guest_->is_mapped = false;
    (gone ? guest_->memory_is_gone : guest_->reads_fail) = true;
    failures_ = 0;
    make_source();
    attach(2);
    source_->push();
    EXPECT_EQ(wait_for_failure(), ErrorCode::kIo);
    EXPECT_EQ(source_->failure()->side, Side::kSource);
    source_->detach();
    EXPECT_EQ(failures_, 1);
    source_.reset();
  }
}

TEST_F(LazySourceTest, FailsWhereALaneTakesNothing) {
  make_guest({kMany});
  make_source(std::chrono::milliseconds(20));
  attach(1);
  source_->push();
  EXPECT_EQ(wait_for_failure(), ErrorCode::kTimeout);
}

TEST_F(LazySourceTest, IsPatientWithAGuestThatNeedsNothing) {
  make_guest({100});
  make_source(std::chrono::milliseconds(1));
  attach(1);
  EXPECT_FALSE(urgent_->has_news(std::chrono::milliseconds(20)));
  ASSERT_TRUE(demand({{{0}, 10, 2}}));
  receive_pages(*urgent_, 2);
  EXPECT_FALSE(source_->failure());
}

TEST_F(LazySourceTest, PushesNoFasterThanTheLesserLimit) {
  constexpr std::uint64_t kLimit = 20'000'000;
  const std::vector<std::pair<std::uint64_t, std::uint64_t>> limits = {
      {kLimit, 0}, {0, kLimit}, {kLimit, 3 * kLimit}, {3 * kLimit, kLimit}};
  for (const auto& [bandwidth, push] : limits) {
    make_guest({1500});
    make_source(kLong, bandwidth, push);
    const auto begin = std::chrono::steady_clock::now();
    attach(2);
    source_->push();
    receive_on_all(total());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    source_->detach();
    // The last records of the lanes are booked when they have left already.
    const std::uint64_t booked = source_->figures().wire_bytes - 2 * 64 * (kPageSize + 16);
    EXPECT_GE(took.count(), static_cast<double>(booked) / static_cast<double>(kLimit));
  }
}

TEST_F(LazySourceTest, ServesDemandsBeyondTheLimit) {
  make_guest({1000});
  make_source(kLong, 0, 1);
  attach(1);
  source_->push();
  // With one byte a second the push would take weeks.
  ASSERT_TRUE(demand({{{0}, 500, 500}}));
  receive_pages(*urgent_, 500);
  source_->detach();
  EXPECT_EQ(source_->figures().demanded, 500u);
}

TEST_F(LazySourceTest, CanBeDetachedAnyTime) {
  make_guest({kMany});
  make_source();
  source_->detach();
  for (int i = 0; i < 5; ++i) {
    attach(2);
    if (i > 1) source_->push();
    source_->detach();
    EXPECT_FALSE(source_->failure());
  }
  EXPECT_EQ(failures_, 0);
}

}  // namespace
}  // namespace migrate::test
