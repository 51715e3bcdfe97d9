// Outlook: what is expected of a migration's remaining rounds, by the dirty curve.
#pragma once

#include <cstdint>

#include "forecast/fixed_costs.hpp"
#include "migrate/policy.hpp"
#include "precopy/throttle_controller.hpp"

namespace migrate::precopy {

struct OutlookInput {
  const ThrottleController& writers;
  std::uint64_t set_pages = 0;
  double ms_per_page = 0;
  Estimate switchover_ms_per_page;
  forecast::FixedCosts fixed;
  double max_downtime_ms = 0;
  std::uint32_t rounds_left = 0;
  bool may_throttle = false;  ///< Now, or once rounds are stuck.
};

struct Outlook {
  Estimate downtime_ms;
  Estimate total_ms;  ///< From now until the guest runs at the target.
  std::uint32_t rounds = 0;
  bool fits = false;  ///< The downtime is expected to keep the limit.
};

/// Follows the rounds as the own policy would go through them. While nothing is known of the
/// guest's writes the p95 of the downtime is the limit: more is not accepted.
[[nodiscard]] Outlook look_ahead(const OutlookInput& input);

/// If the guest were paused with `pages` dirty, of which more become so until it stands.
[[nodiscard]] Estimate downtime_with(double pages, const ThrottleController& writers,
                                     Estimate switchover_ms_per_page,
                                     const forecast::FixedCosts& fixed);

}  // namespace migrate::precopy
