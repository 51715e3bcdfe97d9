// FixedCosts: what a switchover takes whatever is left to send.
#pragma once

#include <array>
#include <cmath>

#include "migrate/policy.hpp"

namespace migrate::forecast {

/// All in milliseconds.
struct FixedCosts {
  Estimate pause;       ///< From the last vCPU's exit until the guest stands for good.
  Estimate final_sync;  ///< One collect of the tracker.
  Estimate state_save;
  Estimate state_load;  ///< At the target.
  Estimate start;       ///< At the target, until a vCPU runs.
  Estimate round_trip;  ///< Of a message and its answer.

  // OFFER -> READY, COMMIT -> STARTED less the half that downtime does not count.
  static constexpr double kRoundTrips = 1.5;
};

/// Of what adds up and goes wrong independently: medians add, what may come on top adds as squares.
template <std::size_t n>
[[nodiscard]] Estimate sum_of(const std::array<Estimate, n>& parts) {
  Estimate sum;
  double squares = 0;
  for (const Estimate& part : parts) {
    sum.p50 += part.p50;
    squares += (part.p95 - part.p50) * (part.p95 - part.p50);
  }
  sum.p95 = sum.p50 + std::sqrt(squares);
  return sum;
}

[[nodiscard]] inline Estimate scaled(Estimate estimate, double factor) {
  return {estimate.p50 * factor, estimate.p95 * factor};
}

[[nodiscard]] inline Estimate sum_of(const FixedCosts& costs) {
  return sum_of(std::array{costs.pause, costs.final_sync, costs.state_save, costs.state_load,
                           costs.start, scaled(costs.round_trip, FixedCosts::kRoundTrips)});
}

}  // namespace migrate::forecast
