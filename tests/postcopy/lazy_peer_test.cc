// What a source must not send, and content that is not what it was.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <optional>

#include "tests/postcopy/lazy_bed.hpp"
#include "wire/delta.hpp"

namespace migrate::test {
namespace {

constexpr std::uint64_t kPages = 1024;

class LazyPeer : public ::testing::Test {
 protected:
  void begin(RamKind kind = RamKind::kAnonymous) {
    bed_.emplace(kind, kPages);
    bed_->create();
    bed_->miss_all();
    link_ = bed_->attach();
    bed_->target().guest_may_wait();
  }
  /// The one record `add` makes, on the bulk lane.
  void send(const std::function<void(wire::PagesEncoder&)>& add, std::uint32_t round = kLazyRound,
            wire::RegionHandle handle = kLazyHandle) {
    wire::PagesEncoder encoder;
    encoder.begin(handle, round);
    add(encoder);
    std::vector<std::byte> content(encoder.content_bytes());
    const iovec part{content.data(), content.size()};
    // A target that refuses the head may be gone before it has the rest.
    (void)link_.bulk->send_pages(encoder, {&part, 1}, kLong);
  }
  void expect_failure(ErrorCode code) {
    bed_->wait_for_news();
    const auto failure = bed_->target().failure();
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->code, code) << failure->to_text();
    EXPECT_EQ(bed_->target().missing_pages(), kPages);
    EXPECT_EQ(bed_->target().missing().count(), kPages);
  }

  std::optional<LazyBed> bed_;
  SourceLink link_;
};

TEST_F(LazyPeer, AnotherRoundIsRefused) {
  begin();
  send([](auto& encoder) { encoder.add_zeros(0, 1); }, kLazyRound + 1);
  expect_failure(ErrorCode::kProtocol);
}

TEST_F(LazyPeer, ARegionNobodyKnowsIsRefused) {
  begin();
  send([](auto& encoder) { encoder.add_zeros(0, 1); }, kLazyRound, wire::RegionHandle{7});
  expect_failure(ErrorCode::kProtocol);
}

TEST_F(LazyPeer, PagesBeyondTheRegionAreRefused) {
  begin();
  send([](auto& encoder) { encoder.add_zeros(kPages - 1, 2); });
  expect_failure(ErrorCode::kProtocol);
}

TEST_F(LazyPeer, ADeltaIsRefused) {
  begin();
  send([](auto& encoder) {
    const std::array<std::byte, 4> delta{};
    encoder.add_delta(0, 1, delta);
  });
  expect_failure(ErrorCode::kProtocol);
}

TEST_F(LazyPeer, OtherRecordsAreRefused) {
  begin();
  ASSERT_TRUE(link_.bulk->send(wire::Barrier{}, kLong));
  expect_failure(ErrorCode::kProtocol);
}

TEST_F(LazyPeer, SignsOfLifeArePassedOver) {
  begin();
  ASSERT_TRUE(link_.bulk->send(wire::Alive{}, kLong));
  ASSERT_TRUE(link_.urgent->send(wire::Alive{}, kLong));
  ASSERT_TRUE(bed_->send(*link_.bulk, 0, kPages / 2));
  ASSERT_TRUE(bed_->send(*link_.urgent, kPages / 2, kPages / 2));
  bed_->wait_for_news();
  EXPECT_TRUE(bed_->target().complete());
  EXPECT_FALSE(bed_->target().failure());
}

TEST_F(LazyPeer, AnErrorRecordComesThrough) {
  begin();
  ASSERT_TRUE(link_.urgent->send(
      wire::ErrorRecord{make_error(ErrorCode::kGuest, "its memory is gone")}, kLong));
  expect_failure(ErrorCode::kGuest);
}

TEST_F(LazyPeer, APageWithAnotherHashIsDemandedAgainAndNeverSeen) {
  begin();
  std::atomic<bool> right{false};
  bed_->run_guest([&] { right = bed_->page_is_right(4); });
  for (int i = 0; i < 3; ++i) {
    const auto wanted = bed_->demanded(link_);
    ASSERT_TRUE(wanted);
    EXPECT_THAT(*wanted, ::testing::ElementsAre(wire::Demand::Pages{kLazyHandle, 4, 1}));
    ASSERT_TRUE(bed_->send(*link_.urgent, 4, 1, /*wrong=*/true));
  }
  ASSERT_TRUE(bed_->demanded(link_));
  EXPECT_FALSE(right);
  ASSERT_TRUE(bed_->send(*link_.urgent, 4, 1));
  bed_->join_guests();
  EXPECT_TRUE(right);
  EXPECT_EQ(bed_->target().figures().refetched, 3u);
  EXPECT_FALSE(bed_->target().failure());
}

TEST_F(LazyPeer, PushedPagesWithAnotherHashAreDemandedTogether) {
  begin();
  ASSERT_TRUE(bed_->send(*link_.bulk, 0, 8, /*wrong=*/true));
  std::uint64_t demanded = 0;
  while (demanded < 8) {
    const auto wanted = bed_->demanded(link_);
    ASSERT_TRUE(wanted);
    for (const auto& pages : *wanted) {
      demanded += pages.count;
      ASSERT_TRUE(bed_->send(*link_.urgent, pages.first, pages.count));
    }
  }
  ASSERT_TRUE(bed_->send(*link_.bulk, 8, kPages - 8));
  ASSERT_TRUE(becomes_true([&] { return bed_->target().complete(); }));
  EXPECT_EQ(bed_->pages_that_are_wrong(), 0u);
}

TEST_F(LazyPeer, APageThatNeverHasItsHashIsTheEnd) {
  begin();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(bed_->send(*link_.bulk, 4, 1, /*wrong=*/true));
  expect_failure(ErrorCode::kIntegrity);
}

class LazyHugePeer : public LazyPeer {
 protected:
  static constexpr std::uint64_t kGranule = 512;
  void SetUp() override {
    huge_.emplace(kPages / kGranule);
    if (!huge_->why_not().empty()) GTEST_SKIP() << huge_->why_not();
    begin(RamKind::kHugetlb);
  }
  void TearDown() override { bed_.reset(); }  // Before the pool shrinks.
  std::optional<migrate::testing::HugePages> huge_;
};

TEST_F(LazyHugePeer, PartsOfHugetlbPagesAreRefusedAtTheEnd) {
  send([](auto& encoder) { encoder.add_zeros(0, kGranule - 1); });
  expect_failure(ErrorCode::kProtocol);
}

TEST_F(LazyHugePeer, PartsOfHugetlbPagesAreRefusedAtTheBeginning) {
  send([](auto& encoder) { encoder.add_zeros(1, kGranule - 1); });
  expect_failure(ErrorCode::kProtocol);
}

TEST_F(LazyHugePeer, HugetlbPagesWithAGapAreRefused) {
  send([](auto& encoder) {
    encoder.add_zeros(0, 10);
    encoder.add_zeros(11, kGranule - 11);
  });
  expect_failure(ErrorCode::kProtocol);
}

TEST_F(LazyHugePeer, AWrongPageBringsTheHugetlbPageAgainAsAWhole) {
  wire::PagesEncoder encoder;
  encoder.begin(kLazyHandle, kLazyRound);
  encoder.add_zeros(0, 100);
  encoder.add_raw(100, 4711);
  encoder.add_zeros(101, kGranule - 101);
  const iovec part{bed_->source_page(100).data(), kPageSize};
  ASSERT_TRUE(link_.bulk->send_pages(encoder, {&part, 1}, kLong));
  const auto wanted = bed_->demanded(link_);
  ASSERT_TRUE(wanted);
  EXPECT_THAT(*wanted, ::testing::ElementsAre(wire::Demand::Pages{kLazyHandle, 0, kGranule}));
  EXPECT_EQ(bed_->target().missing_pages(), kPages);
  ASSERT_TRUE(bed_->send(*link_.urgent, 0, kPages));
  bed_->wait_for_news();
  EXPECT_EQ(bed_->pages_that_are_wrong(), 0u);
}

}  // namespace
}  // namespace migrate::test
