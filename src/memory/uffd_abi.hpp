// What the kernel headers of older distributions lack of userfaultfd and PAGEMAP_SCAN: names and
// numbers as in Linux 6.7's include/uapi/linux/userfaultfd.h and include/uapi/linux/fs.h.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstdint>

namespace migrate::abi {

inline constexpr std::uint64_t kUffdWpHugetlbfsShmem = 1U << 12;  // UFFD_FEATURE_WP_HUGETLBFS_SHMEM
inline constexpr std::uint64_t kUffdWpUnpopulated = 1U << 13;     // UFFD_FEATURE_WP_UNPOPULATED
inline constexpr std::uint64_t kUffdWpAsync = 1U << 15;           // UFFD_FEATURE_WP_ASYNC

/// All that tracking writes needs of a userfaultfd.
inline constexpr std::uint64_t kUffdWriteTracking =
    kUffdWpHugetlbfsShmem | kUffdWpUnpopulated | kUffdWpAsync;

/// All that a snapshot needs: writes are told of and wait, on every kind of memory, holes included.
inline constexpr std::uint64_t kUffdSnapshot =
    UFFD_FEATURE_PAGEFAULT_FLAG_WP | kUffdWpHugetlbfsShmem | kUffdWpUnpopulated;

// PAGE_IS_*
inline constexpr std::uint64_t kPageIsWritten = 1U << 1;
inline constexpr std::uint64_t kPageIsPresent = 1U << 3;
inline constexpr std::uint64_t kPageIsSwapped = 1U << 4;  // Markers of protected holes, too.

// PM_SCAN_*
inline constexpr std::uint64_t kScanProtectMatching = 1U << 0;  // PM_SCAN_WP_MATCHING
inline constexpr std::uint64_t kScanCheckAsync = 1U << 1;       // PM_SCAN_CHECK_WPASYNC

struct PageRegion {  // struct page_region
  std::uint64_t begin;
  std::uint64_t end;
  std::uint64_t categories;
};

struct ScanArguments {  // struct pm_scan_arg
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t begin;
  std::uint64_t end;
  std::uint64_t walk_end;  // Out: where the scan ended.
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t pages_max;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
static_assert(sizeof(PageRegion) == 24 && sizeof(ScanArguments) == 96);

inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);

}  // namespace migrate::abi
