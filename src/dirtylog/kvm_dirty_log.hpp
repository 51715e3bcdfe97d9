// KvmDirtyLog: the kernel's dirty log of one VM, call by call.
#pragma once

#include <cstdint>
#include <span>

#include "migrate/kvm_slot.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// kInvalidArgument for slots that overlap in number or are not made of whole, mapped pages.
Status check_slots(std::span<const KvmMemorySlot> slots);

/// One thread at a time. The descriptor stays the caller's.
class KvmDirtyLog {
 public:
  explicit KvmDirtyLog(int vm_fd) : vm_fd_(vm_fd) {}

  /// What KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 offers.
  struct ManualProtect {
    bool offered = false;
    bool initially_set = false;  ///< Logging can begin with every page dirty, unprotected.
  };
  [[nodiscard]] ManualProtect manual_protect() const;
  /// Chooses how the logs of this VM's slots are re-armed from their next start on.
  Status enable_manual_protect(bool enabled, bool initially_set);

  /// kUnsupported for a VM with a dirty ring that has no bitmaps.
  [[nodiscard]] Status check_has_bitmaps() const;

  Status set_logging(const KvmMemorySlot& slot, bool enabled);

  /// Copies the slot's log to `words` (64 pages each, rounded up). Without manual protect this also
  /// clears and re-arms it.
  Status get(const KvmMemorySlot& slot, std::span<std::uint64_t> words);

  /// Clears and re-arms those pages of [first, first + count) whose bit is set in `words`, bit 0 of
  /// which is page `first` of the slot. `first` is a multiple of 64; so is `count`, or it ends the
  /// slot.
  Status clear(const KvmMemorySlot& slot, std::uint64_t first, std::uint32_t count,
               std::span<const std::uint64_t> words);

 private:
  int vm_fd_;
};

}  // namespace migrate
