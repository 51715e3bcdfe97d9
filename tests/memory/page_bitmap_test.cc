// PageBitmap against the obvious thing: a std::set of pages.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "migrate/memory.hpp"

namespace migrate {
namespace {

using Oracle = std::set<std::pair<RegionId, std::uint64_t>>;

const std::vector<Region> kRegions = {
    {{0, 1, 0}, {{0}, 200}, Backing::kMemfd},
    {{0, 2, 0}, {{1 << 20}, 64}, Backing::kMemfd},
    {{7, 1, 3}, {{0x7f0000000}, 1000}, Backing::kAnonymous},
};

Oracle pages_of(const PageBitmap& set) {
  Oracle pages;
  set.for_each_run([&](const RegionId& region, PageRange run) {
    for (std::uint64_t i = 0; i < run.count; ++i) pages.insert({region, run.first.number + i});
  });
  return pages;
}

class Fuzz {
 public:
  explicit Fuzz(unsigned seed) : random_(seed) {}
  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  void change(PageBitmap& set, Oracle& oracle) {
    const Region& region = kRegions[below(kRegions.size())];
    const std::uint64_t first = below(region.range.count);
    const std::uint64_t count = 1 + below(region.range.count - first);
    const PageRange range{region.range.first + first, count};
    const bool value = below(2) == 0;
    value ? set.set(region.id, range) : set.clear(region.id, range);
    for (std::uint64_t i = 0; i < count; ++i) {
      value ? (void)oracle.insert({region.id, range.first.number + i})
            : (void)oracle.erase({region.id, range.first.number + i});
    }
  }

 private:
  std::mt19937_64 random_;
};

TEST(PageBitmap, AgreesWithASetOfPages) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    Fuzz fuzz(seed);
    PageBitmap a(kRegions);
    PageBitmap b(kRegions);
    Oracle oracle_a;
    Oracle oracle_b;
    for (int i = 0; i < 20; ++i) {
      fuzz.change(a, oracle_a);
      fuzz.change(b, oracle_b);
      ASSERT_EQ(pages_of(a), oracle_a);
      ASSERT_EQ(a.count(), oracle_a.size());
      ASSERT_EQ(a.empty(), oracle_a.empty());
    }
    PageBitmap merged = a;
    merged.merge(b);
    PageBitmap rest = a;
    rest.subtract(b);
    PageBitmap both = a;
    both.intersect(b);
    Oracle expected_merged = oracle_a;
    expected_merged.insert(oracle_b.begin(), oracle_b.end());
    Oracle expected_rest;
    Oracle expected_both;
    for (const auto& page : oracle_a) {
      (oracle_b.contains(page) ? expected_both : expected_rest).insert(page);
    }
    EXPECT_EQ(pages_of(merged), expected_merged);
    EXPECT_EQ(pages_of(rest), expected_rest);
    EXPECT_EQ(pages_of(both), expected_both);
  }
}

TEST(PageBitmap, SetAllLeavesBitsPastTheEndClear) {
  PageBitmap set(kRegions);
  set.set_all();
  EXPECT_EQ(set.count(), set.capacity());
  EXPECT_EQ(set.segments()[0].words.back(), (std::uint64_t{1} << (200 % 64)) - 1);
  set.clear_all();
  EXPECT_TRUE(set.empty());
}

TEST(PageBitmap, ReshapeKeepsWhatStaysAndMarksWhatIsNew) {
  PageBitmap set(std::span<const Region>(kRegions).first(2));
  set.set(kRegions[1].id, GuestPage{(1 << 20) + 5});
  std::vector<Region> changed = {kRegions[1], kRegions[2]};
  set.reshape(changed, true);
  EXPECT_EQ(set.find(kRegions[0].id), nullptr);
  EXPECT_TRUE(set.test(kRegions[1].id, GuestPage{(1 << 20) + 5}));
  EXPECT_EQ(set.count(), 1 + kRegions[2].range.count);
}

TEST(PageBitmap, NextRunStopsAtTheLimit) {
  PageBitmap set(kRegions);
  set.set(kRegions[0].id, PageRange{{60}, 100});
  const auto& segment = set.segments()[0];
  EXPECT_EQ(next_run(segment, {0}, {128}), (PageRange{{60}, 68}));
  EXPECT_EQ(next_run(segment, {128}, {200}), (PageRange{{128}, 32}));
  EXPECT_TRUE(next_run(segment, {160}, {200}).empty());
}

}  // namespace
}  // namespace migrate
