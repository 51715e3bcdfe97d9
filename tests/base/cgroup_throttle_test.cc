// A guest's group gets less processor time while it is throttled, and then its former limit back:
// in real cgroups of both versions, where this host has them.
#include "migrate/cgroup_throttle.hpp"

#include <gmock/gmock.h>
#include <sys/fsuid.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>
#include <thread>

#include "cgroup_bed.hpp"

namespace migrate {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

double online() { return static_cast<double>(::sysconf(_SC_NPROCESSORS_ONLN)); }

class CgroupThrottling : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    top_ = find_cpu_hierarchy(GetParam());
    if (!top_) {
      GTEST_SKIP() << "no writable cgroup hierarchy of version " << GetParam()
                   << " limits processor time here";
    }
    group_.emplace(*top_, "migrate-throttle");
    if (!group_->made()) GTEST_SKIP() << "no cgroup can be made in " << *top_;
  }
  [[nodiscard]] bool unified() const { return GetParam() == 2; }

  /// All files of the limit.
  [[nodiscard]] std::string limit_of(const TestGroup& group) const {
    if (unified()) return group.read("cpu.max") + ", " + group.read("cpu.max.burst");
    return group.read("cpu.cfs_quota_us") + " " + group.read("cpu.cfs_period_us") + ", " +
           group.read("cpu.cfs_burst_us");
  }
  /// Microseconds.
  [[nodiscard]] bool set_limit(const TestGroup& group, int quota, int period) const {
    if (unified()) {
      return group.write("cpu.max", std::to_string(quota) + " " + std::to_string(period));
    }
    return group.write("cpu.cfs_period_us", std::to_string(period)) &&
           group.write("cpu.cfs_quota_us", std::to_string(quota));
  }
  [[nodiscard]] std::unique_ptr<CgroupThrottle> throttle_of(const TestGroup& group) const {
    auto throttle = CgroupThrottle::create(group.path());
    EXPECT_TRUE(throttle) << throttle.error().to_text();
    return throttle ? *std::move(throttle) : nullptr;
  }

  std::optional<std::string> top_;
  std::optional<TestGroup> group_;
};

// The group outweighs whatever else runs here, so without a limit it gets most of a processor; one
// window in which something else took it anyway is no proof of the contrary.
TEST_P(CgroupThrottling, AThrottledProcessGetsLessTime) {
  ASSERT_TRUE(unified() ? group_->write("cpu.weight", "10000")
                        : group_->write("cpu.shares", "262144"));
  const std::string before = limit_of(*group_);
  const pid_t busy = group_->start_busy();
  ASSERT_GT(busy, 0);
  const auto throttle = throttle_of(*group_);
  ASSERT_TRUE(throttle);
  double held = 0;
  double free = 0;
  for (int i = 0; i < 20 && free < 2 * held + 0.1; ++i) {
    const Status done = throttle->withhold(0.8);
    ASSERT_TRUE(done) << done.error().to_text();
    EXPECT_EQ(throttle->cpus_max(), 1) << "one thread, however many processors";
    EXPECT_NEAR(throttle->withheld(), 0.8, 1e-6);
    held = cpu_share(busy, 1000ms);
    EXPECT_GT(held, 0) << "held back, not stopped";
    // Of 0.2, and what is used before the kernel looks.
    EXPECT_LT(held, 0.5);
    ASSERT_TRUE(throttle->restore());
    EXPECT_EQ(limit_of(*group_), before);
    free = cpu_share(busy, 1000ms);
  }
  EXPECT_GE(free, 2 * held + 0.1);
}

TEST_P(CgroupThrottling, TheFormerLimitComesBackAsItWas) {
  ASSERT_TRUE(set_limit(*group_, 60'000, 80'000));
  // May not be there.
  (void)group_->write(unified() ? "cpu.max.burst" : "cpu.cfs_burst_us", "30000");
  const std::string before = limit_of(*group_);
  ASSERT_GT(group_->start_busy(), 0);
  const auto throttle = throttle_of(*group_);
  ASSERT_TRUE(throttle);
  for (const double share : {0.5, 0.8, 0.2}) {
    const Status done = throttle->withhold(share);
    ASSERT_TRUE(done) << done.error().to_text();
    EXPECT_DOUBLE_EQ(throttle->cpus_max(), 0.75) << "the limit that it had";
    EXPECT_NE(limit_of(*group_), before);
  }
  ASSERT_TRUE(throttle->withhold(0));
  EXPECT_EQ(limit_of(*group_), before);
  EXPECT_EQ(throttle->withheld(), 0);
  ASSERT_TRUE(throttle->withhold(0.5));
  ASSERT_TRUE(throttle->restore());
  ASSERT_TRUE(throttle->restore()) << "again";
  EXPECT_EQ(limit_of(*group_), before);
}

TEST_P(CgroupThrottling, WhoeverDropsItPutsTheLimitBack) {
  const std::string before = limit_of(*group_);
  auto throttle = throttle_of(*group_);
  ASSERT_TRUE(throttle);
  ASSERT_TRUE(throttle->withhold(0.5));
  EXPECT_NE(limit_of(*group_), before);
  throttle.reset();
  EXPECT_EQ(limit_of(*group_), before);
}

TEST_P(CgroupThrottling, CountsThreadsOfGroupsBelowAndLimitsOfGroupsAbove) {
  // Version 2 has processes in the groups at the ends only; the limit is of all of them.
  TestGroup first(group_->path(), "first");
  TestGroup second(group_->path(), "second");
  ASSERT_TRUE(first.made() && second.made());
  ASSERT_GT(first.start_busy(), 0);
  ASSERT_GT(second.start_busy(), 0);
  const auto throttle = throttle_of(*group_);
  ASSERT_TRUE(throttle);
  ASSERT_TRUE(throttle->withhold(0.5));
  EXPECT_EQ(throttle->cpus_max(), std::min(2.0, online()));
  ASSERT_TRUE(throttle->restore());

  if (unified()) {
    // Groups below get files of their own only where no processes are in between.
    ASSERT_TRUE(group_->write("cgroup.subtree_control", "+cpu"));
  }
  ASSERT_TRUE(set_limit(*group_, 50'000, 100'000));
  const auto below = throttle_of(first);
  ASSERT_TRUE(below);
  const std::string before = limit_of(first);
  const Status held = below->withhold(0.5);
  ASSERT_TRUE(held) << held.error().to_text();
  EXPECT_EQ(below->cpus_max(), 0.5);
  ASSERT_TRUE(below->restore());
  EXPECT_EQ(limit_of(first), before);
}

// What is less already stays: the least limit of the kernel would be more.
TEST_P(CgroupThrottling, AGroupIsNeverGivenMore) {
  ASSERT_TRUE(set_limit(*group_, 2'000, 100'000));
  const std::string before = limit_of(*group_);
  const auto throttle = throttle_of(*group_);
  ASSERT_TRUE(throttle);
  ASSERT_TRUE(throttle->withhold(0.9));
  EXPECT_EQ(throttle->withheld(), 0);
  EXPECT_EQ(limit_of(*group_), before);
}

// Version 1 refuses a limit below that of a group further down.
TEST_P(CgroupThrottling, ALimitThatIsRefusedLeavesTheFormerOne) {
  if (unified()) GTEST_SKIP() << "version 2 takes any limit";
  TestGroup below(group_->path(), "below");
  ASSERT_TRUE(below.made());
  ASSERT_GT(below.start_busy(), 0);
  ASSERT_TRUE(set_limit(*group_, 80'000, 80'000));
  ASSERT_TRUE(set_limit(below, 60'000, 80'000));
  const std::string before = limit_of(*group_);
  const auto throttle = throttle_of(*group_);
  ASSERT_TRUE(throttle);
  const Status held = throttle->withhold(0.8);
  ASSERT_FALSE(held);
  EXPECT_EQ(held.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(held.error().remedy, HasSubstr("groups below"));
  EXPECT_EQ(throttle->withheld(), 0);
  EXPECT_EQ(limit_of(*group_), before);
}

TEST_P(CgroupThrottling, AGroupThatIsGoneIsToldAndNeedsNothingBack) {
  const auto throttle = throttle_of(*group_);
  ASSERT_TRUE(throttle);
  ASSERT_TRUE(throttle->withhold(0.5));
  group_->remove();
  const Status held = throttle->withhold(0.6);
  ASSERT_FALSE(held);
  EXPECT_EQ(held.error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(held.error().remedy.empty());
  EXPECT_TRUE(throttle->restore());
  const auto again = CgroupThrottle::create(group_->path());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(again.error().remedy.empty());
}

TEST_P(CgroupThrottling, RefusesWhatIsNoShare) {
  const std::string before = limit_of(*group_);
  const auto throttle = throttle_of(*group_);
  ASSERT_TRUE(throttle);
  for (const double share : {-0.1, 0.995, 1.0, std::numeric_limits<double>::quiet_NaN()}) {
    const Status held = throttle->withhold(share);
    ASSERT_FALSE(held);
    EXPECT_EQ(held.error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_EQ(limit_of(*group_), before);
}

TEST_P(CgroupThrottling, NobodyMayWithoutTheRight) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can act as somebody else";
  std::optional<Result<std::unique_ptr<CgroupThrottle>>> throttle;
  // Of this one thread alone, and with the rights over files that come with root's.
  std::thread([&] {
    ::setfsuid(65534);
    throttle.emplace(CgroupThrottle::create(group_->path()));
  }).join();
  ASSERT_FALSE(*throttle);
  EXPECT_EQ(throttle->error().code, ErrorCode::kPermission);
  EXPECT_THAT(throttle->error().remedy, HasSubstr("root"));
}

TEST_P(CgroupThrottling, TheTopmostGroupIsRefused) {
  const auto throttle = CgroupThrottle::create(*top_);
  ASSERT_FALSE(throttle);
  EXPECT_EQ(throttle.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(throttle.error().message, HasSubstr("topmost"));
}

// A group below one that does not pass the controller on.
TEST_P(CgroupThrottling, AGroupWithoutTheControllerIsToldHowToGetIt) {
  if (!unified()) GTEST_SKIP() << "version 1 has the controller everywhere";
  TestGroup below(group_->path(), "below");
  ASSERT_TRUE(below.made());
  const auto throttle = CgroupThrottle::create(below.path());
  ASSERT_FALSE(throttle);
  EXPECT_EQ(throttle.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(throttle.error().remedy,
              HasSubstr("echo +cpu > " + group_->path() + "/cgroup.subtree_control"));
}

INSTANTIATE_TEST_SUITE_P(Version, CgroupThrottling, ::testing::Values(1, 2),
                         [](const auto& version) { return "v" + std::to_string(version.param); });

TEST(CgroupThrottle, SaysWhatAFolderIsThatIsNoGroup) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path();
  const auto plain = CgroupThrottle::create(folder);
  ASSERT_FALSE(plain);
  EXPECT_EQ(plain.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(plain.error().remedy, HasSubstr("/proc/PID/cgroup"));
  const auto missing = CgroupThrottle::create(folder / "migrate-no-such-group");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace migrate
