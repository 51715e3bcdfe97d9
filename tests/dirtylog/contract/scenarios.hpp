// The contract of DirtyTracker, promise by promise. Each takes a bed with a tracker that has not
// been started and says what it found wrong.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/dirtylog/contract/bed.hpp"
#include "tests/dirtylog/contract/verdict.hpp"

namespace migrate::testing {

struct Scenario {
  const char* name = "";  ///< The promise.
  std::vector<std::uint64_t> area_pages;
  Verdict (*run)(TrackerBed& bed, std::uint64_t seed) = nullptr;
};

/// With nobody writing but the test.
Verdict reports_exactly_what_was_written(TrackerBed& bed, std::uint64_t seed);
Verdict reports_nothing_when_nothing_is_written(TrackerBed& bed, std::uint64_t seed);
Verdict peek_takes_nothing(TrackerBed& bed, std::uint64_t seed);
Verdict collect_keeps_what_the_set_had(TrackerBed& bed, std::uint64_t seed);
Verdict regions_left_out_are_kept(TrackerBed& bed, std::uint64_t seed);
Verdict starts_again_after_stop(TrackerBed& bed, std::uint64_t seed);
Verdict stopped_tracker_never_lies(TrackerBed& bed, std::uint64_t seed);
Verdict writes_between_any_two_steps_are_kept(TrackerBed& bed, std::uint64_t seed);
Verdict pages_changed_and_changed_back_are_kept(TrackerBed& bed, std::uint64_t seed);

/// With writers at full speed, each alone and all together, for `time` in all.
Verdict loses_nothing_at_full_speed(TrackerBed& bed, std::uint64_t seed,
                                    std::chrono::milliseconds time);
Verdict stops_and_starts_at_full_speed(TrackerBed& bed, std::uint64_t seed,
                                       std::chrono::milliseconds time);

/// The quiet ones, by name.
[[nodiscard]] const std::vector<Scenario>& quiet_scenarios();

}  // namespace migrate::testing
