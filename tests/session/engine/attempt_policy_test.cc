#include "session/attempt_policy.hpp"

#include <gtest/gtest.h>

namespace migrate::session {
namespace {

using std::chrono::milliseconds;

TEST(AttemptPolicy, TriesAtOnceThenLaterAndLaterThenNotAtAll) {
  struct Case {
    std::uint32_t failed, most;
    bool give_up;
    milliseconds pause;
  };
  constexpr Case kCases[] = {{1, 10, false, milliseconds(0)},
                             {2, 10, false, milliseconds(100)},
                             {3, 10, false, milliseconds(200)},
                             {4, 10, false, milliseconds(400)},
                             {7, 10, false, milliseconds(3'200)},
                             {8, 10, false, milliseconds(4'000)},
                             {9, 10, false, milliseconds(4'000)},
                             {10, 10, true, milliseconds(0)},
                             {11, 10, true, milliseconds(0)},
                             {1, 1, true, milliseconds(0)},
                             {1, 2, false, milliseconds(0)},
                             {4'000'000, 4'000'001, false, milliseconds(4'000)},
                             {4'000'000, 4'000'000, true, milliseconds(0)}};
  for (const Case& one : kCases) {
    const NextAttempt next = next_attempt(one.failed, one.most);
    EXPECT_EQ(next.give_up, one.give_up) << one.failed << " of " << one.most;
    EXPECT_EQ(next.pause, one.pause) << one.failed << " of " << one.most;
  }
}

}  // namespace
}  // namespace migrate::session
