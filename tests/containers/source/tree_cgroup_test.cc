#include "adapters/containers/tree_cgroup.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "tests/containers/source/small_tree.hpp"

namespace migrate::containers {
namespace {

using std::chrono::seconds;
std::chrono::steady_clock::time_point soon() {
  return std::chrono::steady_clock::now() + seconds(60);
}

class TreeCgroupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "moving processes between cgroups needs root";
    if (unified_group_of(::getpid()).empty()) GTEST_SKIP() << "no cgroup hierarchy of version 2";
  }
};

TEST_F(TreeCgroupTest, TreeGetsAGroupOfItsOwnAndGoesBackWhereItWas) {
  SmallTree tree(3);
  const std::string before = unified_group_of(tree.root());
  std::string path;
  {
    auto group = TreeCgroup::of_tree(tree.root());
    ASSERT_TRUE(group) << group.error().to_text();
    path = (*group)->path();
    auto processes = (*group)->processes();
    ASSERT_TRUE(processes);
    std::vector<pid_t> expected = tree.pids();
    std::sort(expected.begin(), expected.end());
    std::sort(processes->begin(), processes->end());
    EXPECT_EQ(*processes, expected);
    for (const pid_t pid : tree.pids()) EXPECT_NE(unified_group_of(pid), before);
    EXPECT_NE(unified_group_of(::getpid()), unified_group_of(tree.root()));
  }
  for (const pid_t pid : tree.pids()) EXPECT_EQ(unified_group_of(pid), before);
  EXPECT_NE(::access(path.c_str(), F_OK), 0) << path << " is still there";
  EXPECT_TRUE(tree.counts_on());
}

TEST_F(TreeCgroupTest, ChildBornInTheGroupGoesBackAsWell) {
  SmallTree tree(1);
  const std::string before = unified_group_of(tree.root());
  pid_t child = 0;
  {
    auto group = TreeCgroup::of_tree(tree.root());
    ASSERT_TRUE(group) << group.error().to_text();
    child = tree.fork_one();
    EXPECT_EQ(unified_group_of(child), unified_group_of(tree.root()));
  }
  EXPECT_EQ(unified_group_of(child), before);
}

TEST_F(TreeCgroupTest, GroupThatTheTreeHasToItselfIsUsedAndStays) {
  auto made = TreeCgroup::create("own group/of a tree");
  ASSERT_TRUE(made) << made.error().to_text();
  SmallTree tree(2);
  for (const pid_t pid : tree.pids()) {
    std::ofstream((*made)->procs_file()) << pid << std::flush;
  }
  {
    auto group = TreeCgroup::of_tree(tree.root());
    ASSERT_TRUE(group) << group.error().to_text();
    EXPECT_EQ((*group)->path(), (*made)->path());
    ASSERT_TRUE((*group)->freeze(true, soon()));
  }
  EXPECT_EQ(::access((*made)->path().c_str(), F_OK), 0);
  EXPECT_TRUE(tree.counts_on()) << "left frozen";
}

TEST_F(TreeCgroupTest, FrozenTreeStandsAndGoesOnWhenThawed) {
  SmallTree tree(2);
  auto group = TreeCgroup::of_tree(tree.root());
  ASSERT_TRUE(group) << group.error().to_text();
  ASSERT_TRUE((*group)->freeze(true, soon()));
  const auto before = tree.counts();
  ::usleep(20'000);  // Long enough for a running tree to count; a frozen one never does.
  EXPECT_EQ(tree.counts(), before);
  ASSERT_TRUE((*group)->freeze(false, soon()));
  EXPECT_TRUE(tree.counts_on());
}

TEST_F(TreeCgroupTest, KillEndsAllEvenFrozenAndLeavesNoGroup) {
  SmallTree tree(4);
  std::string path;
  {
    auto group = TreeCgroup::of_tree(tree.root());
    ASSERT_TRUE(group) << group.error().to_text();
    path = (*group)->path();
    ASSERT_TRUE((*group)->freeze(true, soon()));
    const Status killed = (*group)->kill(soon());
    ASSERT_TRUE(killed) << killed.error().to_text();
    for (const pid_t pid : tree.pids()) EXPECT_FALSE(runs(pid)) << pid;
    ASSERT_TRUE((*group)->kill(soon()));
  }
  EXPECT_NE(::access(path.c_str(), F_OK), 0) << path << " is still there";
}

TEST_F(TreeCgroupTest, KeptGroupStaysAsItIs) {
  SmallTree tree(1);
  std::string path;
  {
    auto group = TreeCgroup::of_tree(tree.root());
    ASSERT_TRUE(group) << group.error().to_text();
    path = (*group)->path();
    (*group)->keep();
  }
  EXPECT_EQ(::access(path.c_str(), F_OK), 0);
  tree.end();
  EXPECT_EQ(::rmdir(path.c_str()), 0);
}

TEST_F(TreeCgroupTest, NoSuchProcessIsNotFound) {
  const auto group = TreeCgroup::of_tree(0x3fffffff);
  ASSERT_FALSE(group);
  EXPECT_EQ(group.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace migrate::containers
