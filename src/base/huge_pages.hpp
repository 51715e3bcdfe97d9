// The host's pools of huge pages (hugetlb): what they have free, and whether a guest fits in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "migrate/result.hpp"

namespace migrate {

/// The sizes x86-64 has.
inline constexpr std::uint64_t kHugePage2MiB = 2ull << 20;
inline constexpr std::uint64_t kHugePage1GiB = 1ull << 30;

/// Pages of one size. Numbers are pages.
struct HugePagePool {
  std::uint64_t page_bytes = 0;
  std::uint64_t total = 0;
  std::uint64_t free = 0;
  std::uint64_t reserved = 0;    ///< Of the free ones: promised to mappings, not yet touched.
  std::uint64_t overcommit = 0;  ///< The kernel may add so many while they are needed.
  std::uint64_t surplus = 0;     ///< It has added so many.
  /// Pages this process's cgroups still allow. Going past it kills the process (SIGBUS), though its
  /// mapping was granted.
  std::uint64_t allowed = ~std::uint64_t{0};

  /// Nobody's yet. Overcommitted pages are left out: nobody knows whether the kernel finds them.
  [[nodiscard]] std::uint64_t unclaimed() const { return free > reserved ? free - reserved : 0; }
  [[nodiscard]] std::uint64_t may_be_added() const {
    return overcommit > surplus ? overcommit - surplus : 0;
  }
};

/// nullopt where the kernel has none of this size. `root` stands before /sys and /proc, for tests.
[[nodiscard]] std::optional<HugePagePool> read_huge_page_pool(std::uint64_t page_bytes,
                                                              const std::string& root = {});

/// Whether `bytes` of memory can be had from the pool now: kInvalidArgument when they are not whole
/// pages, kUnsupported without a pool of `page_bytes`, kNoMemory when it or a cgroup leaves too
/// few pages, with how many are missing and where to reserve them.
[[nodiscard]] Status check_huge_pages(std::uint64_t bytes, std::uint64_t page_bytes,
                                      const std::optional<HugePagePool>& pool);

/// Where the number of pages of this size is set.
[[nodiscard]] std::string huge_page_setting(std::uint64_t page_bytes);

}  // namespace migrate
