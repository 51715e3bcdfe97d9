// What would be silent zeros refuses a restore.
#include "adapters/containers/target/restore_plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "adapters/containers/target/target_checks.hpp"

namespace migrate::containers {
namespace {

StagedRegion staged(std::uint64_t first, std::uint64_t count, std::uint64_t offset) {
  return {{{0, static_cast<std::uint32_t>(first), 0}, {{first}, count}, Backing::kAnonymous},
          offset,
          nullptr};
}
ImageArea area(std::uint64_t first, std::uint64_t end, bool lazy = true) {
  return {first * kPageSize, end * kPageSize, lazy};
}
ImagePages pages(std::uint64_t first, std::uint64_t count, bool lazy, bool present) {
  return {first * kPageSize, count, lazy, present};
}

TEST(RestorePlan, FillsAnAreaFromAllRegionsThatHaveAPartOfIt) {
  const std::vector<ImageArea> areas{area(10, 20), area(40, 50, false)};
  const std::vector<StagedRegion> regions{staged(5, 8, 0), staged(13, 100, 1 << 20)};
  FillPlan plan;
  ASSERT_TRUE(plan_process(7, areas, {}, regions, plan));
  ASSERT_EQ(plan.extents.size(), 2u);
  EXPECT_EQ(plan.extents[0].begin, 10 * kPageSize);
  EXPECT_EQ(plan.extents[0].end, 13 * kPageSize);
  EXPECT_EQ(plan.extents[0].source, 5 * kPageSize);
  EXPECT_EQ(plan.extents[1].end, 20 * kPageSize);
  EXPECT_EQ(plan.extents[1].source, 1u << 20);
}

TEST(RestorePlan, RefusesAnAreaThatNobodyHas) {
  FillPlan plan;
  for (const auto& regions : std::vector<std::vector<StagedRegion>>{
           {}, {staged(10, 9, 0)}, {staged(11, 9, 0)}, {staged(10, 4, 0), staged(15, 5, 0)}}) {
    const Status made = plan_process(7, std::vector{area(10, 20)}, {}, regions, plan);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, ErrorCode::kIntegrity);
    EXPECT_THAT(made.error().message, testing::HasSubstr("process 7"));
    EXPECT_THAT(made.error().message, testing::HasSubstr("a000-14000"));
  }
}

TEST(RestorePlan, PagesInTheImagesCountWhereALazyRestoreReadsThem) {
  const std::vector<ImageArea> areas{area(10, 20)};
  const std::vector<StagedRegion> regions{staged(10, 6, 0)};
  FillPlan plan;
  EXPECT_TRUE(plan_process(
      7, areas, std::vector{pages(16, 2, false, true), pages(18, 2, false, true)}, regions, plan));
  EXPECT_FALSE(plan_process(7, areas, std::vector{pages(16, 3, false, true)}, regions, plan));
  EXPECT_FALSE(plan_process(7, areas, std::vector{pages(16, 4, true, true)}, regions, plan));
  EXPECT_FALSE(plan_process(7, areas, std::vector{pages(16, 4, false, false)}, regions, plan));
}

TEST(RestorePlan, GapsBetweenGuardAreasAreFoundInImagesOfAnyOrder) {
  // A region, a gap, a region, ...; the images have the gaps, overlapping and not in order.
  constexpr std::uint64_t kGaps = 10'000;
  std::vector<StagedRegion> regions;
  std::vector<ImagePages> images;
  for (std::uint64_t i = 0; i < kGaps; ++i) regions.push_back(staged(10 + 4 * i, 2, i << 13));
  for (std::uint64_t i = kGaps; i-- > 0;) {
    images.push_back(pages(13 + 4 * i, 1, false, true));
    images.push_back(pages(11 + 4 * i, 2, false, true));
  }
  const std::vector<ImageArea> areas{area(10, 10 + 4 * kGaps)};
  FillPlan plan;
  ASSERT_TRUE(plan_process(7, areas, images, regions, plan));
  EXPECT_EQ(plan.extents.size(), kGaps);
  images[kGaps].present = false;
  EXPECT_FALSE(plan_process(7, areas, images, regions, plan));
}

TreeDescription tree() {
  TreeDescription tree;
  tree.criu_version = "4.2.1";
  tree.machine = "x86_64";
  tree.pid_namespace = true;
  return tree;
}

TEST(TargetChecks, ATreeThatFitsIsTaken) {
  ContainerTargetOptions options;
  EXPECT_TRUE(check_tree_fits(tree(), options, {{4, 2, 1, "4.2.1"}, "x86_64"}));
  EXPECT_TRUE(check_tree_fits(tree(), options, {{4, 3, 0, "4.3"}, "x86_64"}));
  EXPECT_TRUE(check_tree_fits(tree(), options, {{5, 0, 0, "5.0"}, "x86_64"}));
}

TEST(TargetChecks, AllThatSpeaksAgainstATreeIsSaidAtOnce) {
  TreeDescription other = tree();
  other.pid_namespace = false;
  other.pids = {1, ::getpid()};
  other.mount_namespace = true;
  other.network_namespace = true;
  const Status fits =
      check_tree_fits(other, ContainerTargetOptions(), {{4, 2, 0, "4.2"}, "aarch64"});
  ASSERT_FALSE(fits);
  EXPECT_EQ(fits.error().code, ErrorCode::kIncompatible);
  for (const char* part :
       {"CRIU is 4.2 here and 4.2.1", "aarch64", "taken here: 1", "no root", "network namespace"}) {
    EXPECT_THAT(fits.error().message, testing::HasSubstr(part));
  }
  EXPECT_THAT(fits.error().remedy, testing::HasSubstr("install CRIU 4.2.1"));
}

}  // namespace
}  // namespace migrate::containers
