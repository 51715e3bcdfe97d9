// DirtyTracker: which pages were written since last asked.
#pragma once

#include <cstdint>
#include <string_view>

#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Which writes a tracker sees. A guest whose writers are not all covered needs a composite.
struct DirtyCoverage {
  bool guest_cpu = false;  ///< Stores by the guest's vCPUs or threads.
  bool kernel = false;     ///< The kernel on the guest's behalf (kvmclock, vhost, read(2)).
  bool vmm = false;        ///< Stores by the VMM through its own mapping.
  bool pinned = false;     ///< Pages pinned by a device, io_uring or O_DIRECT in flight.
};

/// Tracks writes to guest memory. Implemented in src/dirtylog; made by migrate/trackers.hpp.
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

  /// Ends tracking and frees what it holds; harmless when not started. Not called inside the
  /// downtime.
  virtual Status stop() = 0;
};

}  // namespace migrate
