// Making guest memory read as zero, and finding what reads as zero already, by what backs it.
#pragma once

#include <cstdint>

#include "migrate/kvm_slot.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

/// Makes `range` of the slot read as zero; gives memory back where it pays. Any thread.
Status zero_pages(const KvmMemorySlot& slot, PageRange range);

/// Gives the memory of `range` back to the host. What it held is lost. Of hugetlb memory it must be
/// whole huge pages: see MemoryRelease. Any thread.
Status release_pages(const KvmMemorySlot& slot, PageRange range);

/// Adds to `holes` the slot's pages that were never written, without touching them. Finding none is
/// no error. One thread a memfd.
Status find_holes(const KvmMemorySlot& slot, PageBitmap& holes);

}  // namespace migrate::kvm
