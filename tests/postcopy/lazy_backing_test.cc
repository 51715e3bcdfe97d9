// Every kind of memory is dropped, waited for, and filled with what the source has.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>

#include "tests/postcopy/lazy_bed.hpp"

namespace migrate::test {
namespace {

class LazyBacking : public ::testing::TestWithParam<RamKind> {
 protected:
  static constexpr std::uint64_t kHuge = 512;
  static constexpr std::uint64_t kPages = 8 * kHuge;

  void SetUp() override {
    if (is_hugetlb(GetParam())) {
      // A few more than the memory has: what was dropped and is filled anew takes from the rest.
      huge_.emplace(kPages / kHuge);
      if (!huge_->why_not().empty()) GTEST_SKIP() << huge_->why_not();
    }
    bed_ = std::make_unique<LazyBed>(GetParam(), kPages);
    granule_ = is_hugetlb(GetParam()) ? kHuge : 1;
  }
  /// What was there before is never seen again.
  void fill_with_junk() { std::memset(bed_->ram().bytes().data(), 0x5a, kPages * kPageSize); }

  std::optional<migrate::testing::HugePages> huge_;
  std::unique_ptr<LazyBed> bed_;
  std::uint64_t granule_ = 1;
};

TEST_P(LazyBacking, TouchedPagesComeOnDemandAndAreRight) {
  fill_with_junk();
  bed_->make_zero(3 * kHuge, kHuge);
  bed_->make_zero(5 * kHuge + 7, 9);
  bed_->create();
  bed_->miss_all();
  EXPECT_EQ(bed_->target().missing_pages(), kPages);
  SourceLink link = bed_->attach();
  std::thread source([&] { bed_->serve(link); });
  bed_->target().guest_may_wait();
  EXPECT_EQ(bed_->pages_that_are_wrong(), 0u);
  bed_->wait_for_news();
  EXPECT_TRUE(bed_->target().complete());
  EXPECT_TRUE(bed_->target().missing().empty());
  const auto figures = bed_->target().figures();
  EXPECT_EQ(figures.faults, kPages / granule_);
  EXPECT_EQ(figures.arrived, kPages);
  EXPECT_FALSE(bed_->target().failure());
  bed_->target().detach();
  source.join();
}

TEST_P(LazyBacking, PushedPagesAreInPlaceWithoutAFault) {
  fill_with_junk();
  bed_->make_zero(2 * kHuge + 1, kHuge);
  bed_->create();
  bed_->miss_all();
  SourceLink link = bed_->attach();
  ASSERT_TRUE(bed_->send(*link.bulk, 0, kPages));
  bed_->wait_for_news();
  ASSERT_FALSE(bed_->target().failure());
  EXPECT_TRUE(bed_->target().complete());
  EXPECT_EQ(bed_->pages_that_are_wrong(), 0u);
  EXPECT_EQ(bed_->target().figures().faults, 0u);
  EXPECT_EQ(bed_->target().take_installed().count(), kPages);
  EXPECT_TRUE(bed_->target().take_installed().empty());
  const auto& hashes = bed_->ledger().entries()[0]->hashes;
  for (std::uint64_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(hashes[page], bed_->digest().hash(bed_->source_page(page))) << page;
  }
}

TEST_P(LazyBacking, OnlyWhatIsMissingIsDroppedAndHolesNeedNobody) {
  std::memset(bed_->ram().page(0).data(), 0x5a, 2 * kHuge * kPageSize);
  bed_->create();
  bed_->miss(kHuge, kHuge);
  EXPECT_EQ(bed_->target().missing_pages(), kHuge);
  // Nobody is there to send anything.
  EXPECT_EQ(bed_->touch(kHuge - 1), 0x5a);
  for (std::uint64_t page = 2 * kHuge; page < 2 * kHuge + 20; ++page) {
    EXPECT_EQ(bed_->touch(page), 0);
  }
  bed_->ram().page(3 * kHuge)[0] = std::byte{1};
  EXPECT_EQ(bed_->touch(3 * kHuge), 1);
  const auto figures = bed_->target().figures();
  EXPECT_EQ(figures.faults, 0u);
  EXPECT_EQ(figures.local_faults, granule_ == 1 ? 21u : 2u);
}

TEST_P(LazyBacking, GranulesAreThoseOfTheMemory) {
  bed_->create();
  const auto granules = bed_->target().granules();
  if (granule_ == 1) {
    EXPECT_TRUE(granules.empty());
  } else {
    ASSERT_EQ(granules.size(), 1u);
    EXPECT_EQ(granules[0], (wire::LazyTerms::Granule{kLazyHandle, kHuge}));
  }
  EXPECT_TRUE(postcopy::LazyTarget::possible(bed_->ram(), std::vector{bed_->region()}));
}

TEST_P(LazyBacking, MissingAgainAfterItCameIsDroppedAgain) {
  bed_->create();
  bed_->miss(0, kHuge);
  SourceLink link = bed_->attach();
  ASSERT_TRUE(bed_->send(*link.bulk, 0, kHuge));
  bed_->wait_for_news();
  bed_->target().guest_may_wait();
  bed_->target().detach();
  std::memset(bed_->source_page(0).data(), 0x77, kHuge * kPageSize);
  bed_->miss(0, kHuge);
  EXPECT_EQ(bed_->target().missing_pages(), kHuge);
  link = bed_->attach(kLazyRound);
  ASSERT_TRUE(bed_->send(*link.bulk, 0, kHuge));
  for (std::uint64_t page = 0; page < kHuge; ++page) ASSERT_TRUE(bed_->page_is_right(page)) << page;
}

INSTANTIATE_TEST_SUITE_P(Kinds, LazyBacking,
                         ::testing::Values(RamKind::kAnonymous, RamKind::kTransparentHuge,
                                           RamKind::kMemfd, RamKind::kHugetlb,
                                           RamKind::kHugetlbMemfd),
                         [](const auto& kind) { return std::string(name_of(kind.param)); });

}  // namespace
}  // namespace migrate::test
