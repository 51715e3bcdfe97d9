// KvmMemorySlot: one piece of a KVM guest's memory, as the trackers and the adapter know it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "migrate/memory.hpp"

namespace migrate {

/// One memory slot of a VM, as it was given to KVM_SET_USER_MEMORY_REGION, and what backs it. The
/// memory and the descriptor stay the VMM's and must outlive what is made from the slot.
struct KvmMemorySlot {
  std::uint32_t slot = 0;     ///< KVM's number; unique in the VM, the same at source and target.
  GuestAddr guest_address;    ///< Multiple of kPageSize.
  std::uint64_t bytes = 0;    ///< Multiple of kPageSize.
  std::byte* host = nullptr;  ///< Where the VMM has it mapped (userspace_addr).
  /// kMemfd: `memfd` is given. kAnonymous: a private anonymous mapping. kHugetlb: one of those two,
  /// of huge pages. kUnknown: anything else; no holes are found then, and zeroing is by memset.
  Backing backing = Backing::kUnknown;
  int memfd = -1;                  ///< -1 for private memory. Its file offset is moved by lseek.
  std::uint64_t memfd_offset = 0;  ///< Where in the memfd the slot begins.
  bool read_only = false;          ///< Set with KVM_MEM_READONLY.
};

/// The region a slot is: address space 0, the slot's number, generation 0.
[[nodiscard]] inline Region region_of(const KvmMemorySlot& slot) {
  return {RegionId{0, slot.slot, 0}, PageRange{slot.guest_address.page(), slot.bytes / kPageSize},
          slot.backing};
}

}  // namespace migrate
