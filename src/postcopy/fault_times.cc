#include "postcopy/fault_times.hpp"

#include <algorithm>
#include <cmath>

namespace migrate::postcopy {
namespace {

double to_us(nanoseconds time) { return static_cast<double>(time.count()) / 1000.0; }

}  // namespace

/// Values below two steps' worth have a bucket each; above, `kStepBits` bits after the leading one
/// choose it.
std::size_t FaultTimes::bucket_of(std::uint64_t ns) {
  const auto width = static_cast<unsigned>(std::bit_width(ns));
  if (width <= kStepBits + 1) return ns;
  const unsigned shift = width - kStepBits - 1;
  return (static_cast<std::size_t>(shift) << kStepBits) + (ns >> shift);
}

double FaultTimes::middle_ns(std::size_t bucket) {
  const std::size_t step = std::size_t{1} << kStepBits;
  if (bucket < 2 * step) return static_cast<double>(bucket);
  const auto shift = static_cast<int>(bucket / step) - 1;
  return std::ldexp(static_cast<double>(step + bucket % step) + 0.5, shift);
}

void FaultTimes::note_fault(nanoseconds took) {
  const nanoseconds time = std::max(took, nanoseconds(0));
  ++buckets_[bucket_of(static_cast<std::uint64_t>(time.count()))];
  ++count_;
  max_ = std::max(max_, time);
}

void FaultTimes::note_stall(int thread, nanoseconds waited) {
  if (thread == 0) return;
  if (stalls_.size() >= kThreadsMax && !stalls_.contains(thread)) return;
  stalls_[thread] += std::max(waited, nanoseconds(0));
}

double FaultTimes::quantile_us(double share) const {
  if (count_ == 0) return 0;
  const auto rank = static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count_)));
  std::uint64_t seen = 0;
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
    seen += buckets_[bucket];
    if (seen >= std::max<std::uint64_t>(rank, 1)) {
      return std::min(middle_ns(bucket) / 1000.0, max_us());
    }
  }
  return max_us();
}

double FaultTimes::max_us() const { return to_us(max_); }

std::vector<std::pair<int, double>> FaultTimes::stall_us_by_thread() const {
  std::vector<std::pair<int, double>> stalls;
  stalls.reserve(stalls_.size());
  for (const auto& [thread, waited] : stalls_) stalls.emplace_back(thread, to_us(waited));
  std::sort(stalls.begin(), stalls.end());
  return stalls;
}

}  // namespace migrate::postcopy
