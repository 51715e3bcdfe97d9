// Giving guest memory back to the host while the rest of it is still needed.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "migrate/kvm_slot.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

/// Pages that nobody needs here any more. Huge pages of a pool (hugetlb) go back whole or not at
/// all, so each waits until all of its pages were released; one that belongs to the slot in part
/// stays. One thread.
class MemoryRelease {
 public:
  /// `range` must lie in the slot. What it held is lost.
  Status release(const KvmMemorySlot& slot, PageRange range);

 private:
  /// A slot of huge pages, in its own pages from 0.
  struct Huge {
    std::uint64_t unit_pages = 0;
    std::uint64_t before = 0;  ///< Pages of the first huge page that come before the slot.
    std::vector<bool> released;
    std::vector<std::uint64_t> left;  ///< By huge page: its pages not yet released.
  };
  static Result<Huge> look_at(const KvmMemorySlot& slot);
  Status release_huge(const KvmMemorySlot& slot, PageRange range);

  std::map<std::uint32_t, Huge> huge_;  ///< By slot.
};

}  // namespace migrate::kvm
