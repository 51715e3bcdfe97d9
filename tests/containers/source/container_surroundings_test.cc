// What a source tells of its tree, and what it does beside the dump.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <chrono>
#include <thread>

#include "tests/containers/source/container_source_bed.hpp"

namespace migrate::containers {
namespace {

class ContainerSourceSurroundings : public ContainerSourceTest {};

TEST_P(ContainerSourceSurroundings, TrackerByContentWorksAsWell) {
  tracker_ = TrackerKind::kContentHash;
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_NO_FATAL_FAILURE(run_rounds());
  ASSERT_TRUE(source_->pause());
  Collector collector;
  const Status saved = save(collector);
  ASSERT_TRUE(saved) << saved.error().to_text();
  EXPECT_LT(collector.bytes(), kPrivateBytes / 4);
  ASSERT_TRUE(source_->resume());
  expect_all_as_before();
}

TEST_P(ContainerSourceSurroundings, LinkGoesDownAndComesUpAgain) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_TRUE(source_->relinquish()) << "without a link there is nothing to do";
  source_.reset();
  link_ = "lo";
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_TRUE(source_->pause());
  EXPECT_TRUE(link_is_up("lo").value());
  ASSERT_TRUE(source_->relinquish());
  EXPECT_FALSE(link_is_up("lo").value());
  ASSERT_TRUE(source_->reclaim());
  EXPECT_TRUE(link_is_up("lo").value());
  ASSERT_TRUE(source_->relinquish());
  ASSERT_TRUE(source_->resume());
  EXPECT_TRUE(link_is_up("lo").value());
  link_ = "no-such-link";
  source_.reset();
  const auto refused = make_container_source(options());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFound);
}

TEST_P(ContainerSourceSurroundings, DescriptionSaysWhatTheTargetNeeds) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  const auto description = source_->describe();
  ASSERT_TRUE(description) << description.error().to_text();
  EXPECT_EQ(description->kind, GuestKind::kContainer);
  EXPECT_EQ(description->name, "test");
  std::uint64_t pages = 0;
  for (const Region& region : description->regions) pages += region.range.count;
  EXPECT_GE(pages * kPageSize, kPrivateBytes);
  const auto tree = parse_tree(*description);
  ASSERT_TRUE(tree) << tree.error().to_text();
  EXPECT_EQ(tree->pids.size(), tree_->pids().size());
  EXPECT_TRUE(tree->tcp);
  EXPECT_FALSE(tree->network_namespace);
  EXPECT_FALSE(tree->pid_namespace);
  EXPECT_FALSE(tree->criu_version.empty());
  const auto cost = source_->expected_cost();
  ASSERT_TRUE(cost);
  EXPECT_GT(cost->pause.count(), 0);
}

TEST_P(ContainerSourceSurroundings, FrozenTreeIsRefusedAndStaysFrozen) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  const std::string freezer =
      "/sys/fs/cgroup/unified" + unified_group_of(tree_->root()) + "/cgroup.freeze";
  if (!fs::exists(freezer)) GTEST_SKIP() << freezer << " is not where this test looks";
  std::ofstream(freezer) << 1 << std::flush;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (source_->run_state() != RunState::kPaused && std::chrono::steady_clock::now() < until) {
    ::usleep(1000);
  }
  const auto paused = source_->pause();
  ASSERT_FALSE(paused);
  EXPECT_EQ(paused.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(source_->run_state(), RunState::kPaused);
  std::ofstream(freezer) << 0 << std::flush;
  expect_all_as_before();
}

TEST_P(ContainerSourceSurroundings, TreeThatStandsInNobodysWayHasNoFindings) {
  const auto findings = check_container(options());
  ASSERT_TRUE(findings) << findings.error().to_text();
  for (const ContainerFinding& finding : *findings) EXPECT_FALSE(finding.blocks) << finding.what;
  ContainerSourceOptions without = options();
  without.criu.path = "/nowhere/criu";
  const auto missing = check_container(without);
  ASSERT_TRUE(missing);
  EXPECT_TRUE(std::any_of(missing->begin(), missing->end(), [](const ContainerFinding& finding) {
    return finding.blocks && !finding.remedy.empty();
  }));
  const auto refused = make_container_source(without);
  EXPECT_FALSE(refused);
  expect_all_as_before();
}

TEST_P(ContainerSourceSurroundings, ThrottleLimitsTheTreesOwnGroup) {
  const std::string group = "/sys/fs/cgroup/cpu/migrate-source-test-" + std::to_string(::getpid());
  std::error_code error;
  if (!fs::exists("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", error) &&
      !fs::exists("/sys/fs/cgroup/cpu/release_agent", error)) {
    GTEST_SKIP() << "no cpu hierarchy of version 1 at /sys/fs/cgroup/cpu";
  }
  ASSERT_NO_FATAL_FAILURE(make_source());
  EXPECT_TRUE(source_->throttle(0, 0));
  EXPECT_FALSE(source_->throttle(1, 0.5));
  const Status top = source_->throttle(0, 0.5);
  if (!top) {
    EXPECT_EQ(top.error().code, ErrorCode::kUnsupported);
  }
  if (!fs::create_directory(group, error)) GTEST_SKIP() << "no group can be made: " << group;
  for (const pid_t pid : tree_->pids()) std::ofstream(group + "/cgroup.procs") << pid;
  const auto quota = [&] {
    std::int64_t value = 0;
    std::ifstream(group + "/cpu.cfs_quota_us") >> value;
    return value;
  };
  const Status held = source_->throttle(0, 0.5);
  EXPECT_TRUE(held) << held.error().to_text();
  EXPECT_GT(quota(), 0);
  EXPECT_TRUE(source_->throttle(0, 0));
  EXPECT_EQ(quota(), -1);
  EXPECT_TRUE(source_->throttle(0, 0.5));
  source_.reset();
  EXPECT_EQ(quota(), -1) << "a dropped source leaves the tree throttled";
  tree_.reset();
  fs::remove(group, error);
  EXPECT_FALSE(error) << error.message();
}

TEST_P(ContainerSourceSurroundings, TreeInNamespacesOfItsOwnIsCalledByItsOwnNumbers) {
  tree_.emplace(2, -1, kPrivateBytes, CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
  group_before_ = unified_group_of(tree_->root());
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_NO_FATAL_FAILURE(run_rounds());
  const auto description = source_->describe();
  ASSERT_TRUE(description);
  const auto tree = parse_tree(*description);
  ASSERT_TRUE(tree);
  EXPECT_THAT(tree->pids, ::testing::UnorderedElementsAre(1, 2, 3));
  EXPECT_TRUE(tree->pid_namespace);
  EXPECT_TRUE(tree->network_namespace);
  ASSERT_TRUE(source_->pause());
  Collector collector;
  const Status saved = save(collector);
  ASSERT_TRUE(saved) << saved.error().to_text();
  EXPECT_LT(collector.bytes(), kPrivateBytes / 4);
  EXPECT_TRUE(collector.sections.contains("criu.core-1.img"));
  const auto owners = parse_spaces(collector.spaces);
  ASSERT_TRUE(owners);
  std::vector<pid_t> pids;
  for (const SpaceOwner& owner : *owners) pids.push_back(owner.pid);
  EXPECT_THAT(pids, ::testing::UnorderedElementsAre(1, 2, 3));
  const Status resumed = source_->resume();
  ASSERT_TRUE(resumed) << resumed.error().to_text();
  EXPECT_TRUE(tree_->counts_on());
  ASSERT_TRUE(source_->pause());
  ASSERT_TRUE(source_->release());
  // A namespace's first process buries the others before it is dead for all to see.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (runs(tree_->root()) && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_FALSE(runs(tree_->root()));
}

INSTANTIATE_TEST_SUITE_P(Criu, ContainerSourceSurroundings, ::testing::Bool(), [](const auto& how) {
  return std::string(how.param ? "HidingMemory" : "Lazy");
});

}  // namespace
}  // namespace migrate::containers
