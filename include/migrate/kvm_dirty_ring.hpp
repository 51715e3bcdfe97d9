// KvmDirtyRing: KVM's dirty ring of one VM, which has to be there before its first vCPU.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "migrate/dirty_tracker.hpp"
#include "migrate/kvm_slot.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// The rings of a VM's vCPUs. Each vCPU logs the pages it writes to a ring of its own, so writes
/// are known by writer, and collecting costs by the page written, not by the size of memory. A vCPU
/// whose ring is full leaves the guest until it has been emptied.
///
/// The VMM enables it right after KVM_CREATE_VM, adds each vCPU when it is made, and calls
/// on_ring_full() from its vCPU threads; a migration makes a tracker from it. A VM with a ring has
/// no dirty bitmap.
class KvmDirtyRing {
 public:
  virtual ~KvmDirtyRing() = default;

  /// KVM asks for room beyond what one exit can log (64 entries and, on Intel, a PML buffer of
  /// 512): smaller rings leave the guest all the time.
  static constexpr std::uint32_t kEntriesMin = 4096;
  /// 1 MiB a vCPU; 65536 pages (256 MiB) can be written between two collects without an exit.
  static constexpr std::uint32_t kEntriesDefault = 65536;

  /// Most entries a ring may have on this VM; 0 where KVM has no dirty ring.
  [[nodiscard]] static std::uint32_t entries_max(int vm_fd);

  /// Turns it on (the ACQ_REL variant where there is one, and the backup bitmap where KVM wants
  /// it). Before the first vCPU and the first memory slot. `entries`: a power of two from
  /// kEntriesMin to entries_max(). kUnsupported without the capability, kInvalidArgument for a
  /// wrong size, kBusy when the VM has vCPUs already. `vm_fd` stays the caller's and must outlive
  /// this.
  static Result<std::shared_ptr<KvmDirtyRing>> enable(int vm_fd,
                                                      std::uint32_t entries = kEntriesDefault);

  /// Maps the ring of the vCPU just made; in order of ids from 0, before it first runs. The
  /// descriptor stays the caller's.
  virtual Status add_vcpu(int vcpu_fd) = 0;

  /// For KVM_EXIT_DIRTY_RING_FULL: takes the entries of that vCPU's ring so that it can go on.
  /// Called by the vCPU's own thread, any number of them at a time, whether or not a tracker runs.
  virtual Status on_ring_full(std::uint32_t vcpu) = 0;

  [[nodiscard]] virtual std::uint32_t entries() const = 0;
  /// How often a ring was full since it was enabled. Any thread.
  [[nodiscard]] virtual std::uint64_t full_exits() const = 0;
};

/// Tracks by `ring`, which was enabled on the VM that has `slots`, with every vCPU added; one
/// tracker at a time. Sees what the KVM bitmap sees, and which vCPU wrote; but on x86 not what KVM
/// writes while no vCPU is loaded (Xen's shared pages, where a VM has them). Starting
/// write-protects all memory at once (there is no INITIALLY_SET with a ring). Pages that Intel's
/// PML has not handed over yet are in a later collect; once pause() has taken every vCPU out of
/// KVM_RUN, none are left. rearms_in_collect().
[[nodiscard]] Result<std::unique_ptr<DirtyTracker>> make_kvm_ring_tracker(
    std::shared_ptr<KvmDirtyRing> ring, std::span<const KvmMemorySlot> slots);

}  // namespace migrate
