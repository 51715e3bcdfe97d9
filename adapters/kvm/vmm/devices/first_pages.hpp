// FirstPages: what a guest is going to touch first where it starts, as its machine knows it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "migrate/kvm_slot.hpp"
#include "migrate/memory.hpp"

namespace migrate::vmm {

/// Adds addresses to a set of pages. What is no memory, or of no region of the set, is left out:
/// the addresses are the guest's, and a page too few costs no more than a wait.
class FirstPages {
 public:
  /// Both must outlive it.
  FirstPages(std::span<const KvmMemorySlot> slots, PageBitmap& pages)
      : slots_(slots), pages_(pages) {}

  void add(GuestAddr address, std::uint64_t bytes);

 private:
  std::span<const KvmMemorySlot> slots_;
  PageBitmap& pages_;
};

}  // namespace migrate::vmm
