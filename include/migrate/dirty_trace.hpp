// DirtyTrace: which pages a guest writes, interval by interval; recorded from one that runs, and
// replayed by `migrate what-if`. In a file: docs/trace-format.md.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// A trace numbers its pages from 0 through its regions, in their order.
struct TraceRun {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  friend bool operator==(const TraceRun&, const TraceRun&) = default;
};
/// Maximal runs in rising order: they neither touch nor overlap.
using TracePages = std::vector<TraceRun>;

struct TraceSample {
  std::chrono::microseconds took{0};  ///< Since the sample before.
  TracePages dirtied;                 ///< Written in it. All were re-armed when it began.
  /// How many pages each vCPU was the first to write in it; empty where the tracker cannot tell.
  std::vector<std::uint64_t> by_vcpu;
  friend bool operator==(const TraceSample&, const TraceSample&) = default;
};

struct DirtyTrace {
  std::string guest;
  GuestKind kind = GuestKind::kVm;
  std::uint32_t vcpus = 0;
  bool paused = false;              ///< The guest stood, so nothing was written.
  std::uint64_t recorded_at_s = 0;  ///< Since 1970, UTC.
  std::string tracker;
  bool rearms_in_collect = false;         ///< As DirtyTracker's.
  std::chrono::microseconds interval{0};  ///< As asked for.
  std::vector<Region> regions;            ///< When it began; later ones are not in it.
  /// What a switchover's fixed parts took here.
  struct Costs {
    std::chrono::microseconds pause{0};    ///< Until the last vCPU stood.
    std::chrono::microseconds collect{0};  ///< Of the tracker; the median.
    std::chrono::microseconds state_save{0};
    std::uint64_t state_bytes = 0;
    friend bool operator==(const Costs&, const Costs&) = default;
  } costs;
  std::uint32_t page_wire_bytes = 0;  ///< What a page with content takes on the wire, whole.
  TracePages empty;                   ///< Zeros when it began: they cost next to nothing.
  std::vector<TraceSample> samples;
  friend bool operator==(const DirtyTrace&, const DirtyTrace&) = default;

  [[nodiscard]] std::uint64_t pages() const;  ///< Of all regions.
  [[nodiscard]] std::chrono::microseconds length() const;
};

struct TraceOptions {
  /// 10 ms to 10 min, for all of recording. The first third is not in the trace: right after
  /// tracking has begun, pages that are only read may count as written.
  std::chrono::microseconds duration{3'000'000};
  std::chrono::microseconds interval{20'000};  ///< 1 ms to 10 s.
  /// When this descriptor is readable (poll), recording ends with kCancelled; -1: none.
  int cancel_fd = -1;
};
/// kInvalidArgument says what is accepted.
[[nodiscard]] Status check(const TraceOptions& options);

/// Records a guest that is in no migration; it runs on, but for one pause of as long as it takes to
/// save its state, which tells what that costs. One that stands is not resumed. The tracker is
/// stopped when this returns, however it does. Blocks; the calling thread is the coordinator.
/// A trace is shorter than asked when the guest writes more than fits (kTraceRunsMax).
[[nodiscard]] Result<DirtyTrace> record_trace(SourceGuest& guest, const TraceOptions& options);

/// Runs of all samples together: 128 MiB of memory.
inline constexpr std::size_t kTraceRunsMax = 16u << 20;

/// kInvalidArgument where the trace contradicts itself (runs out of order, beyond the regions).
[[nodiscard]] Result<std::vector<std::byte>> encode_trace(const DirtyTrace& trace);
/// kInvalidArgument for what is no trace, kVersionMismatch for another version's, kIntegrity for a
/// damaged or cut one; the message has the byte's offset. Never allocates by an unchecked length.
[[nodiscard]] Result<DirtyTrace> decode_trace(std::span<const std::byte> bytes);

}  // namespace migrate
