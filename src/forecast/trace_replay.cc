#include "forecast/trace_replay.hpp"

#include <algorithm>

#include "forecast/trace_pages.hpp"

namespace migrate::forecast {

TraceReplay::TraceReplay(const DirtyTrace& trace, std::chrono::microseconds offset)
    : trace_(trace) {
  for (const TraceSample& sample : trace_.samples) {
    writes_ = writes_ || !sample.dirtied.empty();
  }
  if (!writes_) return;
  for (auto left = offset % trace_.length();
       left >= sample().took && sample_ + 1 < trace_.samples.size();) {
    left -= sample().took;
    ++sample_;
  }
  begin_sample();
}

double TraceReplay::run_share(std::span<const double> withheld) const {
  double writes = 0;
  double held = 0;
  const auto& by_vcpu = sample().by_vcpu;
  for (std::size_t vcpu = 0; vcpu < by_vcpu.size(); ++vcpu) {
    writes += static_cast<double>(by_vcpu[vcpu]);
    if (vcpu < withheld.size()) held += static_cast<double>(by_vcpu[vcpu]) * withheld[vcpu];
  }
  if (writes > 0) return 1 - held / writes;
  if (withheld.empty()) return 1;
  // Not known who writes: all alike.
  for (const double share : withheld) held += share;
  return 1 - held / static_cast<double>(withheld.size());
}

void TraceReplay::next_sample() {
  sample_ = (sample_ + 1) % trace_.samples.size();
  begin_sample();
}

void TraceReplay::begin_sample() {
  pages_ = count(sample().dirtied);
  at_ms_ = 0;
  emitted_ = 0;
  run_ = 0;
  in_run_ = 0;
}

}  // namespace migrate::forecast
