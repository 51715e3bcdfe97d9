// What tracking costs on one bed: arming, collecting, looking again and clearing, what the writer
// loses, and the same by bare calls of the kernel, in turns.
#pragma once

#include <cstdint>
#include <optional>

#include "bench/tracker_beds.hpp"

namespace migrate::bench {

/// Medians, in milliseconds, of the tracker and of the bare calls. Nothing where there is no such
/// step.
struct Pair {
  std::optional<double> layer;
  std::optional<double> bare;
};

struct ArmingFigures {
  Pair start;
  /// The longest time between two writes of a writer while start() ran, and as long without it.
  double stall_ms = 0;
  double stall_without_ms = 0;
};

struct DirtyFigures {
  double percent = 0;
  std::uint64_t written = 0;   ///< Pages.
  std::uint64_t reported = 0;  ///< Pages, by one collect.
  Pair peek;
  Pair collect;
  Pair clear;
  double write_ms = 0;            ///< Of the writer, tracked.
  double write_untracked_ms = 0;  ///< The same pages.
  /// More than before, after the first collect; see memory_in_use_mib(). Without the kernel's own
  /// bitmaps, which it does not tell.
  double memory_mib = 0;
  unsigned repeats = 0;
};

[[nodiscard]] ArmingFigures measure_arming(TrackerBed& bed, unsigned repeats);

/// With every `step`-th page written (0: none) before each collect. As often as `budget_s` allows,
/// at least once and at most `repeats_max` times. `memory_before_mib`: with nothing tracked yet.
[[nodiscard]] DirtyFigures measure_dirty(TrackerBed& bed, std::uint64_t step, double budget_s,
                                         unsigned repeats_max, double memory_before_mib);

}  // namespace migrate::bench
