// Makers of dirty trackers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "migrate/dirty_tracker.hpp"
#include "migrate/kvm_slot.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// How the KVM dirty bitmap is re-armed.
enum class KvmLogMode : std::uint8_t {
  kAuto = 0,    ///< kManual where the kernel offers it, else kPlain.
  kManual = 1,  ///< KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: pages are re-armed by rearm().
  kPlain = 2,   ///< KVM_GET_DIRTY_LOG re-arms: rearms_in_collect() is true.
};

/// Tracks by the dirty bitmap of each slot. Sees writes by vCPUs and by KVM itself, not those of
/// the VMM through its mapping: join it with a SoftwareBitmap for them.
///
/// In manual mode, where the kernel can, every page counts as dirty at start(), so that starting is
/// cheap; the first collect() then reports them all. Re-arm holes too, or they are reported again.
/// start() sets each slot's log flag by KVM_SET_USER_MEMORY_REGION and stop() removes it; the VMM
/// must not change the slots meanwhile. Needs a VM without a dirty ring. `vm_fd` stays the
/// caller's.
///
/// Fails with kUnsupported when `mode` is kManual and the kernel lacks it, kInvalidArgument for
/// slots that overlap in number or are not made of whole pages.
[[nodiscard]] Result<std::unique_ptr<DirtyTracker>> make_kvm_bitmap_tracker(
    int vm_fd, std::span<const KvmMemorySlot> slots, KvmLogMode mode = KvmLogMode::kAuto);

/// A tracker that is told: for writes no log sees, such as a VMM's read(2) into guest memory.
class SoftwareBitmap : public DirtyTracker {
 public:
  /// Says that `pages` of address space `space` have been written. Called **after** the write is
  /// complete (I/O: when it has completed). Any thread, at any time; costs an atomic operation per
  /// 64 pages. Pages outside every region are ignored.
  virtual void mark(std::uint32_t space, PageRange pages) noexcept = 0;

  /// The same for bytes of address space 0, a VM's only one.
  void mark(GuestAddr address, std::uint64_t bytes) noexcept;
};

/// One bit a page of `regions`, which must not overlap. Shared: the writers keep it while trackers
/// come and go.
[[nodiscard]] std::shared_ptr<SoftwareBitmap> make_software_bitmap(std::span<const Region> regions);

/// Both as one tracker: a page is dirty when either says so; re-arming is the primary's.
[[nodiscard]] std::unique_ptr<DirtyTracker> make_composite_tracker(
    std::unique_ptr<DirtyTracker> primary, std::shared_ptr<SoftwareBitmap> told);

}  // namespace migrate
