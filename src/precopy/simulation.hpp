// A migration that does not happen: a recorded guest, a link that is a number, and the code that
// decides in a real one (Convergence). Pure.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "migrate/dirty_trace.hpp"
#include "migrate/options.hpp"

namespace migrate::precopy {

struct SimulationInput {
  double bandwidth_bytes_per_s = 0;  ///< Of the link, or what may be used of it; positive.
  double round_trip_ms = 0.2;
  /// strategy (auto is precopy), max_downtime, max_rounds, policy, on_stall, throttle_max.
  OutgoingOptions options;
  double content_ratio = 1;  ///< Of a page's bytes, what goes over the wire: packed less than 1.
  std::chrono::microseconds offset{0};  ///< Where in its trace the guest is at the beginning.
};

struct SimulatedRound {
  std::uint64_t set_pages = 0;
  std::uint64_t sent = 0;
  double bytes = 0;
  double ms = 0;
  std::uint64_t dirty_after = 0;
  double withheld = 0;  ///< Share of run time, mean of the vCPUs, when it ended.
};

struct Simulation {
  bool done = false;   ///< False: given up, the guest stays where it is.
  std::string reason;  ///< Why rounds ended, or the migration.
  double total_ms = 0;
  double downtime_ms = 0;           ///< 0 where it is not done.
  double downtime_spread_ms = 0;    ///< What may come on top of it at the p95, by its fixed costs.
  double bytes = 0;                 ///< On the wire.
  std::uint64_t residue_pages = 0;  ///< Sent while the guest stood.
  double lost_ms = 0;               ///< Run time that throttling withheld, mean of the vCPUs.
  double max_downtime_ms = 0;       ///< In the end: the ladder may have raised it.
  std::vector<SimulatedRound> rounds;  ///< Without the last.
};

[[nodiscard]] Simulation simulate(const DirtyTrace& trace, const SimulationInput& input);

}  // namespace migrate::precopy
