// Pagemap: which pages of a process were written since they were write-protected (PAGEMAP_SCAN,
// Linux 6.7 or newer), for memory registered with a WP_ASYNC userfaultfd.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "base/fd.hpp"
#include "memory/uffd_abi.hpp"
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
  /// Calls `take` for runs of written pages and protects them again by the same call, so that no
  /// write falls between. Memory that was discarded (MADV_DONTNEED) counts as written. Protects no
  /// more than 16 MiB at a time, and nothing where nothing was written. When it fails, pages whose
  /// state is not known have been given to `take` as well, so that none is lost.
  ///
  /// Protection is by the page of the backing: `range` must begin and end on one for hugetlb.
  Result<ScanOutcome> take_written(AddressRange range, const Take& take);
  /// The same without protecting: takes nothing.
  Result<ScanOutcome> look(AddressRange range, const Take& take);
  /// Protects all pages of the range, written or not, without telling.
  Result<ScanOutcome> protect(AddressRange range);

 private:
  struct Query;
  Pagemap(Fd fd, bool foreign);
  /// One call of the kernel, from `range.begin` on; `range.begin` moves to where it ended.
  Result<ScanOutcome> scan_once(AddressRange& range, const Query& query, std::size_t runs_max);
  Result<ScanOutcome> look_for(AddressRange range, const Query& query, const Take& take);
  Result<ScanOutcome> take_matching(AddressRange range, const Query& query, const Take& take);

  Result<ScanOutcome> take_piece(AddressRange& range, const Query& query, const Take& take);
  [[nodiscard]] bool gone() const;

  Fd fd_;
  bool foreign_ = false;
  std::vector<AddressRange> found_;  ///< By the latest scan_once().
  std::vector<abi::PageRegion> raw_;
};

}  // namespace migrate
