// ProcessMemory: the memory of another process as regions that come and go.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// One mapping of a process (a line of /proc/PID/maps).
struct ProcessMapping {
  std::uint64_t begin = 0;  ///< Addresses in the process.
  std::uint64_t end = 0;
  bool readable = false;
  bool writable = false;
  bool executable = false;
  bool shared = false;
  std::uint64_t file_offset = 0;
  std::uint64_t device = 0;  ///< Of the file; with `inode` 0 there is none.
  std::uint64_t inode = 0;
  std::string name;  ///< Path or "[heap]", as the kernel gives it; may be empty.
  Backing backing = Backing::kUnknown;
  friend bool operator==(const ProcessMapping&, const ProcessMapping&) = default;
};

/// Which mappings of a process are regions.
enum class ProcessMappings : std::uint8_t {
  kOwn = 0,  ///< Whose content belongs to the process: see ProcessMemory.
  /// Of these only private memory without a file that is neither locked (mlock) nor made of
  /// hugetlb's pages: what a userfaultfd can fill in a process made anew.
  kLazilyFilled = 1,
};

/// The memory of one process, one address space of a guest. A region is a range of addresses whose
/// content belongs to the process: private mappings and shared memory, but not shared mappings of
/// files, devices, nor the kernel's own ([vdso], [vvar]). A region stays the same while all of it
/// stays mapped alike; what grows at its end is a new region; what is unmapped, moved, or mapped
/// anew in its place ends it (what is left of it begins again as a new one). One of which a read
/// has said that it is gone, and which is there at the next look, gets a new generation.
///
/// refresh(), regions(), renew() and holes() by one thread at a time; read() concurrently.
class ProcessMemory : public PageSource {
 public:
  /// kNotFound without such a process, kPermission without the right to read its memory (ptrace's
  /// rule), kUnsupported for a kernel thread or a process of another word size.
  static Result<std::shared_ptr<ProcessMemory>> open(pid_t pid, std::uint32_t space = 0,
                                                     ProcessMappings which = ProcessMappings::kOwn);

  [[nodiscard]] virtual pid_t pid() const = 0;

  /// Looks at the mappings again. Gives what changed since the former look; once the process has
  /// ended or replaced its program, all regions are removed.
  virtual Result<RegionDelta> refresh() = 0;
  /// Says that the content of `region` is not the former one's although its place is (mapped anew
  /// within, found by a tracker): it gets a new generation and shows as changed in the next delta.
  virtual void renew(const RegionId& region) = 0;
  /// The regions as of the latest look.
  [[nodiscard]] virtual std::vector<Region> known_regions() const = 0;
  /// The mappings of the latest look that lie in `region`, in order.
  [[nodiscard]] virtual std::vector<ProcessMapping> mappings(const RegionId& region) const = 0;
  /// What could hold content by its kind and held none at the latest look, so that it is in no
  /// region: address space that is only reserved. In order.
  [[nodiscard]] virtual std::vector<PageRange> empty_areas() const = 0;
};

}  // namespace migrate
