// Pagemap: which pages of a process were written since they were write-protected (PAGEMAP_SCAN,
// Linux 6.7 or newer), for memory registered with a WP_ASYNC userfaultfd.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Addresses [begin, end) of a process; both multiples of the page size.
struct AddressRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  friend bool operator==(const AddressRange&, const AddressRange&) = default;
};

enum class ScanOutcome : std::uint8_t {
  kDone = 0,
  /// Some of the range is not, or no longer, registered for write protection. Pages elsewhere in it
  /// may have been protected again without having been told: all of the range counts as written.
  kUnregistered = 1,
  /// The process has no memory any more (it has ended).
  kGone = 2,
};

/// One thread at a time.
class Pagemap {
 public:
  /// `pid` 0: this process. kUnsupported where the kernel has no PAGEMAP_SCAN, kPermission,
  /// kNotFound.
  static Result<Pagemap> open(pid_t pid = 0);

  using Take = std::function<void(AddressRange written)>;
  /// Calls `take` for each run of written pages, in order, and protects them again by the same
  /// call, so that no write falls between.
  Result<ScanOutcome> take_written(AddressRange range, const Take& take);
  /// The same without protecting: takes nothing.
  Result<ScanOutcome> look(AddressRange range, const Take& take);
  /// Protects all pages of the range, written or not, without telling.
  Result<ScanOutcome> protect(AddressRange range);

 private:
  explicit Pagemap(Fd fd);
  Result<ScanOutcome> scan(AddressRange range, bool protect, const Take* take);

  struct PageRegion {  // The kernel's struct page_region.
    std::uint64_t begin;
    std::uint64_t end;
    std::uint64_t categories;
  };
  Fd fd_;
  std::vector<PageRegion> found_;
};

}  // namespace migrate
