// What a round goes by, whether it sends pages or a simulation counts them. Pure.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "migrate/memory.hpp"

namespace migrate::precopy {

// 8 MiB: large enough that re-arming costs few system calls (128 for 1 GiB), small enough that at
// 10 Gbit/s a page is read 7 ms after its re-arm at the latest. On a slower link they are smaller,
// or the throttle would hear of the guest's writes too late.
inline constexpr std::uint64_t kWindowPages = 2048;
inline constexpr std::uint64_t kWindowPagesMin = 256;
// How long before it is read a page is re-armed. Pages written again in that time are seen by the
// next look and left to a later round.
inline constexpr std::chrono::milliseconds kLookAhead{20};
inline constexpr std::size_t kWindowsAheadMax = 16;

/// Pages re-armed at once, for a round at `bytes_per_s` (0: not known); a multiple of 64.
[[nodiscard]] inline std::uint64_t window_pages(double bytes_per_s) {
  if (bytes_per_s == 0) return kWindowPages;
  const double seconds = std::chrono::duration<double>(kLookAhead).count();
  const auto pages = static_cast<std::uint64_t>(seconds * bytes_per_s / kPageSize);
  return std::clamp(pages, kWindowPagesMin, kWindowPages) / 64 * 64;
}

/// How many windows are re-armed before the first of them is read.
[[nodiscard]] inline std::size_t windows_ahead(double bytes_per_s) {
  const auto bytes = static_cast<double>(window_pages(bytes_per_s) * kPageSize);
  const double window_s = bytes_per_s > 0 ? bytes / bytes_per_s : 0.007;
  const double windows = std::chrono::duration<double>(kLookAhead).count() / window_s;
  return static_cast<std::size_t>(std::clamp(windows, 1.0, static_cast<double>(kWindowsAheadMax)));
}

}  // namespace migrate::precopy
