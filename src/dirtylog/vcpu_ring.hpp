// VcpuRing: the dirty ring of one vCPU, as the kernel shares it.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "migrate/result.hpp"

namespace migrate {

/// An entry is the kernel's to fill (flags 0), ours to harvest (DIRTY), then the kernel's to reset
/// (RESET), in order, round and round. One thread at a time.
class VcpuRing {
 public:
  /// `entries` is a power of two, as the ring was enabled with. The descriptor stays the caller's.
  static Result<VcpuRing> map(int vcpu_fd, std::uint32_t entries);
  ~VcpuRing();
  VcpuRing(VcpuRing&& other) noexcept
      : first_(std::exchange(other.first_, nullptr)),
        entries_(other.entries_),
        next_(other.next_) {}
  VcpuRing& operator=(VcpuRing&&) = delete;

  /// Calls f(slot, offset in pages) for each entry the kernel has filled, oldest first, and gives
  /// each back to be reset. How many there were.
  template <typename F>
  std::uint32_t harvest(F&& f) {
    std::uint32_t taken = 0;
    for (; taken < entries_; ++taken, ++next_) {
      kvm_dirty_gfn& entry = first_[next_ & (entries_ - 1)];
      std::atomic_ref<__u32> flags(entry.flags);
      // Acquire: slot and offset are written before the flag.
      if (flags.load(std::memory_order_acquire) != KVM_DIRTY_GFN_F_DIRTY) break;
      f(entry.slot, entry.offset);
      // Release: once it is set, the kernel may fill the entry anew.
      flags.store(KVM_DIRTY_GFN_F_RESET, std::memory_order_release);
    }
    return taken;
  }

 private:
  VcpuRing(kvm_dirty_gfn* first, std::uint32_t entries) : first_(first), entries_(entries) {}

  kvm_dirty_gfn* first_;
  std::uint32_t entries_;
  std::uint32_t next_ = 0;  ///< Counts on and wraps as the kernel's own index does.
};

}  // namespace migrate
