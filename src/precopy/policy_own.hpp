// The engine's own policy: rounds end when the downtime forecast keeps the limit.
#pragma once

#include "migrate/policy.hpp"

namespace migrate::precopy {

/// Stops when the forecast's p95 keeps the limit, and one more round would not still halve what is
/// left. Stuck when the set has stopped shrinking over a window of rounds, or when the working set
/// measured says that it will, or at the round limit; then, what keeps the limit at least by the
/// p50 is taken before any step of the ladder.
class OwnPolicy final : public PrecopyPolicy {
 public:
  /// A round that leaves more than this share of what was left before has not shrunk it: at 0.9 a
  /// guest needs over 20 rounds for each factor of ten, more than the default limit has.
  static constexpr double kShrinkNeeded = 0.9;

  [[nodiscard]] std::string name() const override { return "own"; }
  [[nodiscard]] std::uint64_t first_rate(std::uint64_t) const override { return 0; }
  [[nodiscard]] PolicyDecision decide(const PolicyInput& input) const override;
};

}  // namespace migrate::precopy
