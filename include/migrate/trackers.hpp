// Makers of dirty trackers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "migrate/dirty_tracker.hpp"
#include "migrate/kvm_slot.hpp"
#include "migrate/memory.hpp"
#include "migrate/process_memory.hpp"
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
/// must not change the slots meanwhile. Needs a VM without a dirty ring (kvm_dirty_ring.hpp).
/// `vm_fd` stays the caller's.
///
/// Fails with kUnsupported when `mode` is kManual and the kernel lacks it, kInvalidArgument for
/// slots that overlap in number or are not made of whole pages.
[[nodiscard]] Result<std::unique_ptr<DirtyTracker>> make_kvm_bitmap_tracker(
    int vm_fd, std::span<const KvmMemorySlot> slots, KvmLogMode mode = KvmLogMode::kAuto);

/// A tracker that is told: for writes no log sees, such as a VMM's read(2) into guest memory. It
/// covers what a VMM knows of and marks: all but the guest's own and KVM's writes.
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

/// A region and where its memory is mapped in this process. The memory stays the caller's and must
/// stay mapped there until the tracker made from it has stopped.
struct MappedRegion {
  Region region;
  std::byte* address = nullptr;  ///< Of region.range.first; a multiple of the backing's page size.
};
[[nodiscard]] inline MappedRegion mapped_region_of(const KvmMemorySlot& slot) {
  return {region_of(slot), slot.host};
}

/// Tracks by write-protecting the mappings of `regions` in this process: userfaultfd (WP_ASYNC,
/// WP_UNPOPULATED) and PAGEMAP_SCAN, Linux 6.7 or newer. Private anonymous memory, shared memfds
/// and hugetlb; huge pages are reported whole until they are split. Sees vCPUs, KVM, the VMM and
/// the kernel writing through these mappings, and private memory that is discarded; not writes by
/// pinned pages or other mappings, holes punched into a memfd (MADV_REMOVE, too), nor discarded
/// hugetlb pages: mark those when the I/O has completed, and join the marks by
/// make_composite_tracker().
/// rearms_in_collect().
///
/// start() fails with kUnsupported where the kernel lacks it, kPermission where userfaultfd is
/// forbidden, kBusy where a region has a userfaultfd already (lazily filled memory, say).
[[nodiscard]] Result<std::unique_ptr<DirtyTracker>> make_write_protect_tracker(
    std::span<const MappedRegion> regions);

/// The same in another process: the userfaultfd is made inside it by a system call that ptrace
/// injects. Follows the process's mappings: collect() looks at them again, and what is new, has
/// moved or has vanished shows as changed regions of `memory`, a new one dirty as a whole.
/// Starting, and a collect() that finds new memory, stop the process for a fraction of a
/// millisecond. Needs the right to ptrace it, and x86-64 at both ends. rearms_in_collect().
[[nodiscard]] Result<std::unique_ptr<DirtyTracker>> make_process_write_protect_tracker(
    std::shared_ptr<ProcessMemory> memory);

/// Tracks another process by the soft-dirty bit (/proc/PID/clear_refs), which needs
/// CONFIG_MEM_SOFT_DIRTY. Between reading the bits and clearing them the process is stopped by
/// ptrace, or writes in between would be lost: about 10 ms a GiB. rearms_in_collect().
///
/// Others cannot be stopped. What is written during a collect() by anybody but the process's own
/// threads (process_vm_writev(2), /proc/PID/mem, a process that shares its memory by CLONE_VM,
/// vhost before Linux 6.4) may be lost: keep them apart from collect(), mark their writes, or use
/// make_process_write_protect_tracker(), which takes and re-arms in one step.
[[nodiscard]] Result<std::unique_ptr<DirtyTracker>> make_soft_dirty_tracker(
    std::shared_ptr<ProcessMemory> memory);

/// Tracking without any help from the kernel. `tracker` compares each page's hash (XXH3, 64 bits)
/// with that of its content as last read through `pages`, which is why memory has to be read
/// through it alone: a page that changed, was read and changed back is found, too.
///
/// A collect() reads all memory once, so it costs memory bandwidth (about 0.1 s a GiB), also in the
/// downtime; peek() finds nothing. Eight bytes a page. Sees every writer. rearms_in_collect().
struct ContentHashTracking {
  std::unique_ptr<PageSource> pages;
  std::unique_ptr<DirtyTracker> tracker;
};
/// `memory` must outlive both.
[[nodiscard]] ContentHashTracking make_content_hash_tracking(PageSource& memory);

/// Several trackers as one: a page is dirty when any of them says so.
class CompositeTracker : public DirtyTracker {
 public:
  struct Count {
    std::string_view name;    ///< Of the part.
    std::uint64_t pages = 0;  ///< It reported in the latest collect(), others' among them.
  };
  [[nodiscard]] virtual std::vector<Count> counts() const = 0;
};

/// name() and written_by_vcpu() are the first part's; rearm() goes to every part that needs it. A
/// collect() that fails takes nothing from any part.
[[nodiscard]] std::unique_ptr<CompositeTracker> make_composite_tracker(
    std::vector<std::shared_ptr<DirtyTracker>> parts);

}  // namespace migrate
