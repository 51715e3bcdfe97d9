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

/// Protected by one call. For its length the faults of a KVM guest on that memory wait, and
/// afterwards the guest faults in all of it again: 16 MiB take about 0.2 ms. A multiple of a
/// transparent huge page, which would be split at a boundary within.
inline constexpr std::uint64_t kProtectBytesMax = std::uint64_t{16} << 20;
/// Instead, where one huge page is larger than that: the largest there is on x86-64.
inline constexpr std::uint64_t kGiganticPageBytes = std::uint64_t{1} << 30;

class Userfault;

/// All of `range` is mapped in this process.
[[nodiscard]] bool is_mapped(AddressRange range);

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
  /// write falls between. Private memory that was discarded (MADV_DONTNEED) counts as written,
  /// but not hugetlb's, and no hole punched into a file: the kernel keeps those protected. Protects
  /// no more than kProtectBytesMax at a time, and nothing where nothing was written. When it fails,
  /// pages whose state is not known have been given to `take` as well, so that none is lost.
  ///
  /// `registered`: what the range is registered with. It halves the cost where the kernel makes a
  /// second look needless; without it, holes of hugetlb are told again each time, because only the
  /// userfaultfd can protect them. Hugetlb ranges begin and end on huge pages.
  Result<ScanOutcome> take_written(AddressRange range, const Take& take,
                                   const Userfault* registered = nullptr);
  /// The same without protecting: takes nothing.
  Result<ScanOutcome> look(AddressRange range, const Take& take,
                           const Userfault* registered = nullptr);
  /// The mapping that `address` lies in is registered for write protection; true as well where the
  /// process has no memory any more. Nothing mapped: true.
  Result<bool> registered_at(std::uint64_t address);
  /// Protects all pages of the range, written or not, without telling, kProtectBytesMax at a time.
  /// Hugetlb needs `registered`, as above; so does memory that was registered before and lost that
  /// by no doing of its owner's.
  Result<ScanOutcome> protect(AddressRange range, const Userfault* registered = nullptr);

 private:
  struct Query;
  /// How much a call tells.
  enum class Amount : std::uint8_t { kNone = 0, kFirstPage = 1, kRuns = 2 };
  Pagemap(Fd fd, bool foreign);
  /// One call of the kernel, from `range.begin` on; `range.begin` moves to where it ended.
  Result<ScanOutcome> scan_once(AddressRange& range, const Query& query, Amount amount);
  Result<ScanOutcome> look_for(AddressRange range, const Query& query, const Take& take);
  Result<ScanOutcome> take_matching(AddressRange range, const Query& query, const Take& take);

  Result<ScanOutcome> take_piece(AddressRange& range, const Query& query, const Take& take);
  /// Finds pages, protects them by the userfaultfd, and tells of them.
  Result<ScanOutcome> protect_found(AddressRange range, const Query& query, const Take& take,
                                    const Userfault& registered);
  /// The kernel does not count all unprotected holes of `range` as written.
  static bool holes_are_untold(AddressRange range, const Userfault* registered);
  static bool kernel_tells_holes();
  [[nodiscard]] bool gone() const;

  Fd fd_;
  bool foreign_ = false;
  std::vector<AddressRange> found_;  ///< By the latest scan_once().
  std::vector<abi::PageRegion> raw_;
};

}  // namespace migrate
