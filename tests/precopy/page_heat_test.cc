#include "precopy/page_heat.hpp"

#include <gtest/gtest.h>

namespace migrate::precopy {
namespace {

const std::vector<Region> kRegions = {{{0, 0, 0}, {{0}, 300}, Backing::kMemfd}};

PageBitmap of(std::initializer_list<std::uint64_t> pages) {
  PageBitmap set(kRegions);
  for (const std::uint64_t page : pages) set.set(kRegions[0].id, GuestPage{page});
  return set;
}

bool is_hot(const PageHeat& heat, std::uint64_t page) { return !heat.hot_part(of({page})).empty(); }

TEST(PageHeat, APageDirtyTwiceIsHot) {
  PageHeat heat;
  heat.reshape(kRegions);
  heat.note(of({1, 2}));
  EXPECT_FALSE(is_hot(heat, 1));
  heat.note(of({1}));
  EXPECT_TRUE(is_hot(heat, 1));
  EXPECT_FALSE(is_hot(heat, 2));
  EXPECT_FALSE(is_hot(heat, 299));
}

TEST(PageHeat, HeatFades) {
  PageHeat heat;
  heat.reshape(kRegions);
  heat.note(of({1}));
  heat.note(of({1}));
  for (int round = 0; round < 8; ++round) heat.note(of({2}));
  EXPECT_FALSE(is_hot(heat, 1));
  EXPECT_TRUE(is_hot(heat, 2));
}

TEST(PageHeat, NewRegionsBeginCold) {
  PageHeat heat;
  heat.reshape(kRegions);
  heat.note(of({1}));
  heat.note(of({1}));
  std::vector<Region> changed = kRegions;
  changed[0].id.generation = 1;
  heat.reshape(changed);
  PageBitmap set(changed);
  set.set_all();
  EXPECT_TRUE(heat.hot_part(set).empty());
}

}  // namespace
}  // namespace migrate::precopy
