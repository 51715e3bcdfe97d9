// Many vCPUs are handled beside each other, each once.
#include "adapters/kvm/parallel.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

namespace migrate::kvm {
namespace {

TEST(ForEachVcpu, HandlesEachOnceWhateverTheNumber) {
  for (const std::size_t count : {0U, 1U, 15U, 16U, 31U, 32U, 500U}) {
    std::vector<std::atomic<int>> handled(count);
    ASSERT_TRUE(for_each_vcpu(count, [&](std::size_t i) -> Status {
      ++handled[i];
      return {};
    }));
    for (const auto& times : handled) EXPECT_EQ(times, 1);
  }
}

TEST(ForEachVcpu, ReportsTheErrorOfTheLowestNumberAndHandlesTheRest) {
  std::atomic<int> handled{0};
  const Status result = for_each_vcpu(200, [&](std::size_t i) -> Status {
    ++handled;
    if (i % 50 == 7) return make_error(ErrorCode::kGuest, std::to_string(i));
    return {};
  });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message, "7");
  EXPECT_EQ(handled, 200);
}

}  // namespace
}  // namespace migrate::kvm
