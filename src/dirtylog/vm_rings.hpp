// VmRings: the dirty rings of a VM and what was harvested from them.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "base/mutex.hpp"
#include "dirtylog/page_marks.hpp"
#include "dirtylog/vcpu_ring.hpp"
#include "migrate/kvm_dirty_ring.hpp"

namespace migrate {

/// The order that loses nothing is: harvest, reset, hand out, read.
///
/// Between the harvest of an entry and its reset the page is still writable: a write then makes no
/// new entry. So nobody may be given the page in between, or he could read it before that write,
/// and nothing would ever tell of it. After the reset (which returns once every vCPU has flushed
/// its translations) the page is write-protected: a write faults and makes an entry anew.
///
/// Two threads could break that order together: one harvests and is about to reset while the other
/// finds nothing left to harvest, and hands out what the first has noted. The same goes for the
/// kernel's part, which clears entries first and flushes in the end. Therefore **one** mutex spans
/// harvest, reset and hand-out, for vCPU threads with a full ring as for the tracker's.
class VmRings final : public KvmDirtyRing {
 public:
  VmRings(int vm_fd, std::uint32_t entries, bool backup_bitmap)
      : vm_fd_(vm_fd), entries_(entries), backup_bitmap_(backup_bitmap) {}

  Status add_vcpu(int vcpu_fd) override MIGRATE_EXCLUDES(mutex_);
  Status on_ring_full(std::uint32_t vcpu) override MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] std::uint32_t entries() const override { return entries_; }
  [[nodiscard]] std::uint64_t full_exits() const override {
    return full_exits_.load(std::memory_order_relaxed);
  }

  [[nodiscard]] int vm_fd() const { return vm_fd_; }
  [[nodiscard]] std::size_t vcpus() const MIGRATE_EXCLUDES(mutex_);

  /// Drops what is in the rings, and notes what comes for `slots`. kBusy while others are noted.
  Status begin(std::span<const KvmMemorySlot> slots) MIGRATE_EXCLUDES(mutex_);
  /// Gives what was written in the regions of `round_set` and forgets it; all is re-armed.
  Status take(PageBitmap& round_set) MIGRATE_EXCLUDES(mutex_);
  /// The same, forgetting and re-arming nothing: the guest does not fault again for having been
  /// looked at.
  Status look(PageBitmap& again) MIGRATE_EXCLUDES(mutex_);
  /// Entries of each vCPU for the slots, since begin().
  [[nodiscard]] std::vector<std::uint64_t> written() const MIGRATE_EXCLUDES(mutex_);
  /// Empties the rings and forgets the slots; their log flags have been removed.
  Status end() MIGRATE_EXCLUDES(mutex_);

 private:
  struct Vcpu {
    VcpuRing ring;
    std::uint64_t written = 0;
  };
  struct Slot {
    KvmMemorySlot slot;
    Region region;
    PageMarks written;  ///< Harvested, not handed out.
    /// Perhaps never re-armed (see reset()): handed out by every take().
    PageMarks doubted;
  };

  void harvest(Vcpu& vcpu) MIGRATE_REQUIRES(mutex_);
  void harvest_all() MIGRATE_REQUIRES(mutex_);
  Status reset() MIGRATE_REQUIRES(mutex_);
  void doubt() MIGRATE_REQUIRES(mutex_);
  /// Adds the bitmaps of pages that KVM wrote for no vCPU.
  Status drain_backup() MIGRATE_REQUIRES(mutex_);
  /// In slots ordered by number; nullptr when it is none of them.
  static Slot* find(std::span<Slot> slots, std::uint32_t number);

  const int vm_fd_;
  const std::uint32_t entries_;
  const bool backup_bitmap_;
  std::atomic<std::uint64_t> full_exits_{0};

  mutable Mutex mutex_;
  std::vector<Vcpu> vcpus_ MIGRATE_GUARDED_BY(mutex_);
  bool tracked_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::vector<Slot> slots_ MIGRATE_GUARDED_BY(mutex_);        ///< By number.
  std::uint64_t outstanding_ MIGRATE_GUARDED_BY(mutex_) = 0;  ///< Harvested, not reset.
  std::vector<std::uint64_t> scratch_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate
