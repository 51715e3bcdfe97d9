#include "precopy/prediction.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace migrate::precopy {
namespace {

// From so many moments of the trace, fewer for guests whose rounds take long to go through: 8 for
// up to 16 GiB, 2 from 64 GiB on.
constexpr std::uint64_t kMomentsMax = 8;
constexpr std::uint64_t kMomentsMin = 2;
constexpr std::uint64_t kPagesForAll = std::uint64_t{32} << 20;
// What a link that is shared gives, of what it is said to give.
constexpr std::array kBandwidths = {0.9, 1.0, 1.1};

/// The value that `share` of them do not exceed.
double quantile(std::vector<double>& values, double share) {
  if (values.empty()) return 0;
  const auto at = static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

Estimate estimate(std::vector<double> values) {
  return {quantile(values, 0.5), quantile(values, 0.95)};
}

struct Figures {
  std::vector<double> downtime, spread, total, rounds, bytes, withheld;

  void note(const Simulation& run) {
    downtime.push_back(run.downtime_ms);
    spread.push_back(run.downtime_spread_ms);
    total.push_back(run.total_ms);
    rounds.push_back(static_cast<double>(run.rounds.size()));
    bytes.push_back(run.bytes);
    withheld.push_back(run.total_ms > 0 ? run.lost_ms / run.total_ms : 0);
  }
};

}  // namespace

Prediction predict(const DirtyTrace& trace, const SimulationInput& input) {
  const std::uint64_t pages = std::max<std::uint64_t>(1, trace.pages());
  const std::uint64_t moments = std::clamp(kPagesForAll / pages, kMomentsMin, kMomentsMax);
  Prediction prediction;
  prediction.max_downtime_ms = static_cast<double>(input.options.max_downtime.count()) / 1000;
  Figures figures;
  for (std::uint64_t moment = 0; moment < moments; ++moment) {
    for (const double share : kBandwidths) {
      SimulationInput one = input;
      one.offset += trace.length() * moment / moments;
      one.bandwidth_bytes_per_s *= share;
      const Simulation run = simulate(trace, one);
      ++prediction.runs;
      if (!run.done) {
        prediction.reason = run.reason;
        continue;
      }
      ++prediction.done;
      // The ladder may have raised it.
      prediction.max_downtime_ms = std::max(prediction.max_downtime_ms, run.max_downtime_ms);
      figures.note(run);
    }
  }
  prediction.downtime_ms = estimate(std::move(figures.downtime));
  prediction.downtime_ms.p95 += quantile(figures.spread, 0.5);
  prediction.total_ms = estimate(std::move(figures.total));
  prediction.rounds = estimate(std::move(figures.rounds));
  prediction.bytes = estimate(std::move(figures.bytes));
  prediction.withheld = estimate(std::move(figures.withheld));
  return prediction;
}

double bandwidth_needed(const DirtyTrace& trace, SimulationInput input, double most) {
  const auto keeps = [&](double bandwidth) {
    input.bandwidth_bytes_per_s = bandwidth;
    return predict(trace, input).keeps_limit();
  };
  double high = input.bandwidth_bytes_per_s;
  double low = 0;
  while (!keeps(high)) {
    low = high;
    if (high >= most) return 0;
    high = std::min(2 * high, most);
  }
  while (high > 1.1 * low && low > 0) {
    const double middle = (low + high) / 2;
    (keeps(middle) ? high : low) = middle;
  }
  return high;
}

}  // namespace migrate::precopy
