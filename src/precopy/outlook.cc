#include "precopy/outlook.hpp"

#include <algorithm>
#include <array>

#include "precopy/policy_own.hpp"

namespace migrate::precopy {
namespace {

// What a busy host's scheduler adds somewhere on the way: each side wakes a thread a few times.
constexpr Estimate kWaking{0.7, 4};

}  // namespace

Estimate downtime_with(double pages, const ThrottleController& writers,
                       Estimate switchover_ms_per_page, const forecast::FixedCosts& fixed) {
  // Until it stands, hardly more than a whole round has left.
  const auto more = [&](double ms) { return std::min(pages, writers.dirtied_after(ms)); };
  const Estimate of_pages{(pages + more(fixed.pause.p50)) * switchover_ms_per_page.p50,
                          (pages + more(fixed.pause.p95)) * switchover_ms_per_page.p95};
  return forecast::sum_of(std::array{forecast::sum_of(fixed), of_pages, kWaking});
}

Outlook look_ahead(const OutlookInput& input) {
  Outlook outlook;
  double pages = static_cast<double>(input.set_pages);
  double ms = 0;
  bool throttled = input.writers.engaged();
  int stuck = 0;
  while (outlook.rounds < std::max(1u, input.rounds_left)) {
    const double round_ms = pages * input.ms_per_page + input.fixed.round_trip.p50;
    ms += round_ms;
    ++outlook.rounds;
    double next = input.writers.dirtied_after(round_ms);
    if (throttled) next = std::min(next, ThrottleController::kRhoTarget * pages);
    stuck = next > OwnPolicy::kShrinkNeeded * pages ? stuck + 1 : 0;
    pages = next;
    outlook.downtime_ms =
        downtime_with(pages, input.writers, input.switchover_ms_per_page, input.fixed);
    outlook.fits = outlook.downtime_ms.p95 <= input.max_downtime_ms;
    if (outlook.fits) break;
    if (stuck < 2) continue;
    if (throttled || !input.may_throttle) break;
    throttled = true;
    stuck = 0;
  }
  if (!input.writers.knows()) {
    outlook.downtime_ms.p95 = std::max(outlook.downtime_ms.p95, input.max_downtime_ms);
  }
  outlook.total_ms.p50 = ms + outlook.downtime_ms.p50;
  const double spread = input.switchover_ms_per_page.p50 > 0
                            ? input.switchover_ms_per_page.p95 / input.switchover_ms_per_page.p50
                            : 1;
  outlook.total_ms.p95 = ms * spread + outlook.downtime_ms.p95;
  return outlook;
}

}  // namespace migrate::precopy
