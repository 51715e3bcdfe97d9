// What lies under memory of this process, as far as filling it lazily depends on it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/pagemap.hpp"
#include "migrate/result.hpp"

namespace migrate::postcopy {

/// How memory is dropped and filled.
struct MappedBacking {
  bool shared = false;   ///< A file's pages, in memory only: of a memfd, a tmpfs or hugetlbfs.
  bool hugetlb = false;  ///< Comes and goes in whole units of `unit_bytes`.
  std::uint64_t unit_bytes = 4096;
  friend bool operator==(const MappedBacking&, const MappedBacking&) = default;
};

/// The mappings of this process as the kernel lists them now (/proc/self/smaps).
class MappedBackings {
 public:
  static Result<MappedBackings> read();
  /// Of `text` as /proc/PID/smaps has it, for tests; kInternal for one that the kernel does not
  /// write.
  static Result<MappedBackings> parse(std::string_view text);

  /// kUnsupported, with a remedy, for memory that cannot be filled lazily: mapped only in part,
  /// different from place to place, not writable, or of a file on a disk. `what` names it,
  /// `instead` is what else can be done.
  [[nodiscard]] Result<MappedBacking> of(AddressRange range, const std::string& what,
                                         const std::string& instead = kInsteadOfPostcopy) const;
  static constexpr const char* kInsteadOfPostcopy = "migrate with --strategy precopy";

 private:
  struct Mapping {
    AddressRange range;
    MappedBacking backing;
    std::string refused;  ///< Why it cannot be filled lazily, if it cannot.
  };
  std::vector<Mapping> mappings_;  // In order of addresses.
};

}  // namespace migrate::postcopy
