// What the coder makes of pages that are sent again: deltas are for those that the guest keeps
// writing, whatever else is sent.
#include "transport/page_coder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace migrate {
namespace {

/// One region of a guest that writes when it is told to.
class Memory : public PageSource {
 public:
  explicit Memory(std::uint64_t pages) : bytes_(pages * kPageSize, std::byte{1}) {
    region_.range = {GuestPage{0}, pages};
  }
  Result<std::vector<Region>> regions() override { return std::vector{region_}; }
  Status holes(const RegionId& /*region*/, PageBitmap& /*into*/) override { return {}; }
  Result<ReadOutcome> read(const RegionId& /*region*/, PageRange /*range*/,
                           std::span<std::byte> /*into*/) override {
    return ReadOutcome::kGone;  // All of it is mapped.
  }
  std::span<const std::byte> mapped(const RegionId& /*region*/) override { return bytes_; }

  [[nodiscard]] const Region& region() const { return region_; }
  void write(std::uint64_t page) { ++*reinterpret_cast<std::uint64_t*>(&bytes_[page * kPageSize]); }

 private:
  Region region_;
  std::vector<std::byte> bytes_;
};

class PageCoding : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kPages = 64;
  static constexpr std::uint64_t kCachePages = 8;

  void SetUp() override {
    ASSERT_TRUE(ledger_.add(0, memory_.region()));
    auto made = PageCoder::create({memory_,
                                   ledger_,
                                   digest_,
                                   sent_,
                                   originals_,
                                   {.encodings = wire::set_of(wire::PageEncoding::kDelta)},
                                   {CompressionChoice::Mode::kNone, 1}});
    ASSERT_TRUE(made) << made.error().to_text();
    coder_.emplace(std::move(*made));
  }

  /// Sends pages [first, first + count) in `round`.
  CodedPages send(std::uint32_t round, std::uint64_t first, std::uint64_t count) {
    PageBatch batch;
    batch.entry = ledger_.find(0U);
    batch.round = round;
    for (std::uint64_t page = first; page < first + count; ++page) {
      batch.pages[batch.count++] = page;
    }
    const Status coded = coder_->code(batch, PageBitmap(), false);
    EXPECT_TRUE(coded) << coded.error().to_text();
    return coder_->take_counts();
  }
  void write(std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t page = first; page < first + count; ++page) memory_.write(page);
  }

  Memory memory_{kPages};
  wire::PageDigest digest_{wire::Hasher(wire::SessionRandom{}, wire::SessionRandom{})};
  PageLedger ledger_{digest_.zero_hash()};
  SentPages sent_{kCachePages * kPageSize};
  PageOriginals originals_{0};
  std::optional<PageCoder> coder_;
};

TEST_F(PageCoding, AWorkingSetThatFitsIsSentAsWhatChanged) {
  EXPECT_EQ(send(0, 0, kPages).raw, kPages);
  write(40, 1);
  EXPECT_EQ(send(1, 40, 1).raw, 1U) << "the first round keeps nothing";
  for (std::uint32_t round = 2; round < 10; ++round) {
    write(40, 1);
    EXPECT_EQ(send(round, 40, 1).delta, 1U) << "round " << round;
  }
}

// The first round is sent again, all of it void: that must not take the working set's places.
TEST_F(PageCoding, WhatALostLinkSendsAgainInTheFirstRoundIsNotKept) {
  EXPECT_EQ(send(0, 0, kPages).raw, kPages);
  auto& hashes = ledger_.find(0U)->hashes;
  std::fill(hashes.begin(), hashes.end(), wire::PageDigest::kVoid);
  EXPECT_EQ(send(0, 0, kPages).raw, kPages);
  write(40, 1);
  EXPECT_EQ(send(1, 40, 1).raw, 1U);
  write(40, 1);
  EXPECT_EQ(send(2, 40, 1).delta, 1U);
}

// Pages that are written once in a while do not push out those that are written in every round.
TEST_F(PageCoding, PagesWrittenInEveryRoundKeepTheirPlaces) {
  EXPECT_EQ(send(0, 0, kPages).raw, kPages);
  constexpr std::uint64_t kHot = 2;
  write(0, kHot);
  EXPECT_EQ(send(1, 0, kHot).raw, kHot);
  for (std::uint32_t round = 2; round < 9; ++round) {
    const std::uint64_t once = 8 * (round - 1);
    write(once, 8);
    send(round, once, 8);
    write(0, kHot);
    EXPECT_EQ(send(round, 0, kHot).delta, kHot) << "round " << round;
  }
}

}  // namespace
}  // namespace migrate
