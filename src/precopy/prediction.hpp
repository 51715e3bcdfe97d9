// Prediction: what a migration of a recorded guest will come to, with the spread that comes from
// when it begins and from a link that is not quite as fast as said.
#pragma once

#include <cstdint>
#include <string>

#include "migrate/dirty_trace.hpp"
#include "migrate/policy.hpp"
#include "precopy/simulation.hpp"

namespace migrate::precopy {

struct Prediction {
  std::uint32_t runs = 0;  ///< Simulated, each from another moment of the trace or bandwidth.
  std::uint32_t done = 0;  ///< Of those, not given up. The figures below are of them.
  Estimate downtime_ms;
  Estimate total_ms;
  Estimate rounds;    ///< Without the last.
  Estimate bytes;     ///< On the wire.
  Estimate withheld;  ///< Share of run time that throttling takes during the migration, 0..1.
  double max_downtime_ms = 0;  ///< As asked for.
  std::string reason;          ///< Of a run that was given up, if any.

  /// All runs end, and 19 of 20 of them within the limit.
  [[nodiscard]] bool keeps_limit() const {
    return runs > 0 && done == runs && downtime_ms.p95 <= max_downtime_ms;
  }
};

/// `input.offset` is where the first run begins.
[[nodiscard]] Prediction predict(const DirtyTrace& trace, const SimulationInput& input);

/// The least bandwidth, in bytes a second, by which predict() keeps the limit; 0: none up to
/// `most`. Within a tenth.
[[nodiscard]] double bandwidth_needed(const DirtyTrace& trace, SimulationInput input, double most);

}  // namespace migrate::precopy
