// DirtyTracker: which pages were written since last asked.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Which writes a tracker sees. A guest whose writers are not all covered needs a composite, or
/// marks (SoftwareBitmap) for the others.
struct DirtyCoverage {
  bool guest_cpu = false;  ///< Stores by the guest's vCPUs or threads.
  bool kvm = false;        ///< KVM's own for the guest: kvmclock, steal time, page table bits.
  bool kernel = false;     ///< The kernel through the tracked mapping: read(2), vhost.
  bool vmm = false;        ///< Stores by the VMM (or any thread) through the tracked mapping.
  /// The same memory through another mapping or process, and write(2) to its file.
  bool other_mappings = false;
  bool pinned = false;  ///< Pages pinned by a device, io_uring or O_DIRECT in flight.
  friend bool operator==(const DirtyCoverage&, const DirtyCoverage&) = default;
};

/// Tracks writes to guest memory. Implemented in src/dirtylog; made by migrate/trackers.hpp,
/// migrate/kvm_dirty_ring.hpp.
///
/// The contract: after start(), each page written before a collect() returned is in that collect or
/// in a later one. All methods are called by one thread at a time (the coordinator's). A page that
/// was collected must be re-armed before it is read, or a write between the read and the re-arm is
/// lost.
class DirtyTracker {
 public:
  virtual ~DirtyTracker() = default;

  /// Short name for reports, such as "kvm-bitmap".
  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual DirtyCoverage covers() const = 0;

  /// Begins tracking. Nothing written before start() need be reported.
  virtual Status start() = 0;

  /// Adds to `round_set` the pages written since they were last taken. Regions `round_set` does not
  /// have are kept for a later collect; new regions need not be reported (all of them is dirty).
  /// Fails with kInvalidArgument when not started, as peek() may; a SoftwareBitmap always works.
  virtual Status collect(PageBitmap& round_set) = 0;

  /// Re-arms those pages of `range` that are in `set`, and no others: `set` must be what the latest
  /// collect() gave (or a part of it). `range` begins on a multiple of 64 pages from the region's
  /// first and ends on one or at the region's end. A page is re-armed once a collect.
  virtual Status rearm(const PageBitmap& set, const RegionId& region, PageRange range) = 0;

  /// True where collect() itself re-arms and rearm() has nothing to do.
  [[nodiscard]] virtual bool rearms_in_collect() const = 0;

  /// Adds to `again` the pages that were written again after rearm() (or after a collect() that
  /// re-arms). Takes nothing: the next collect() still reports them. May kick every vCPU: the
  /// caller limits it by time, never once a batch.
  virtual Status peek(PageBitmap& again) = 0;

  /// Pages each vCPU has newly written since start(), by vCPU id, as of the latest collect() or
  /// peek(); empty where the tracker cannot tell writers apart. For throttling who writes.
  [[nodiscard]] virtual std::vector<std::uint64_t> written_by_vcpu() const = 0;

  /// Ends tracking and frees what it holds; harmless when not started. Not called inside the
  /// downtime.
  virtual Status stop() = 0;
};

}  // namespace migrate
