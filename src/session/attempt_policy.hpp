// What follows a switchover that was given up at the hard limit of its downtime. Pure.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace migrate::session {

struct NextAttempt {
  bool give_up = false;
  std::chrono::nanoseconds pause{0};  ///< Before rounds go on.
};

/// A target or a link that hung for a moment is tried again at once: with what is dirty after one
/// round the guest may be there in milliseconds. One that keeps hanging costs the guest the limit
/// once an attempt, so the next ones come later and later, until the standing is less than a
/// hundredth of the time for a limit of 40 ms; beyond that nobody would notice the difference.
inline constexpr std::chrono::milliseconds kAttemptPauseFirst{100};
inline constexpr std::chrono::milliseconds kAttemptPauseMax{4'000};

/// `failed`: how many there were, at least 1.
[[nodiscard]] constexpr NextAttempt next_attempt(std::uint32_t failed, std::uint32_t attempts_max) {
  if (failed >= attempts_max) return {true, {}};
  if (failed < 2) return {};
  const std::uint32_t doublings = std::min<std::uint32_t>(failed - 2, 16);
  return {false, std::min<std::chrono::nanoseconds>(kAttemptPauseFirst * (1 << doublings),
                                                    kAttemptPauseMax)};
}

}  // namespace migrate::session
