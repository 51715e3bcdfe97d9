// How the kernel writes a group's limit, and what limit withholds a share.
#include "base/cpu_limit.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace migrate {
namespace {

TEST(CpuLimit, IsReadAndWrittenAsTheKernelDoes) {
  const CpuLimit none{std::nullopt, 100'000};
  const CpuLimit half{50'000, 100'000};
  EXPECT_EQ(parse_cpu_max("max 100000\n"), none);
  EXPECT_EQ(parse_cpu_max("50000 100000\n"), half);
  EXPECT_EQ(cpu_max_text(none), "max 100000");
  EXPECT_EQ(cpu_max_text(half), "50000 100000");
  EXPECT_EQ(parse_cfs("-1\n", "100000\n"), none);
  EXPECT_EQ(parse_cfs("50000\n", "100000\n"), half);
  EXPECT_EQ(cfs_quota_text(none), "-1");
  EXPECT_EQ(cfs_quota_text(half), "50000");
  EXPECT_EQ(cpus_of(half), 0.5);
  EXPECT_TRUE(std::isinf(cpus_of(none)));
}

TEST(CpuLimit, AnythingElseIsNone) {
  for (const char* text : {"", "\n", "max", "100000", "max 0", "max max", "-1 100000", "1 2 3",
                           "0x10 100000", "99999999999999999999 100000",
                           "max 100000 "
                           "more"}) {
    EXPECT_FALSE(parse_cpu_max(text)) << text;
  }
  EXPECT_FALSE(parse_cfs("", "100000"));
  EXPECT_FALSE(parse_cfs("-1", ""));
  EXPECT_FALSE(parse_cfs("-1", "0"));
  EXPECT_FALSE(parse_cfs("max", "100000"));
}

TEST(CpuLimit, WithholdsAShareOfWhatTheGroupMayUse) {
  struct {
    double share, cpus;
    std::uint64_t quota_us;
  } const cases[] = {
      {0.5, 1, 5'000},   {0.75, 1, 2'500},  {0.5, 8, 40'000},
      {0.99, 64, 6'400}, {0.99, 1, 1'000},  // The kernel's least.
      {0.01, 2, 19'800}, {0.5, 0.5, 2'500},
  };
  for (const auto& c : cases) {
    const auto limit = limit_withholding(c.share, c.cpus);
    ASSERT_TRUE(limit);
    EXPECT_EQ(limit->quota_us, c.quota_us);
    EXPECT_EQ(limit->period_us, 10'000U);
    EXPECT_LT(cpus_of(*limit), c.cpus);
  }
}

TEST(CpuLimit, NeverGivesAGroupMoreThanItHad) {
  EXPECT_FALSE(limit_withholding(0.5, 0.1));
  EXPECT_FALSE(limit_withholding(0.99, 0.01));
}

}  // namespace
}  // namespace migrate
