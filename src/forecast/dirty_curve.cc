#include "forecast/dirty_curve.hpp"

#include <algorithm>
#include <cmath>

namespace migrate::forecast {
namespace {

// A guest's phases last for seconds and samples come every 20 ms: after five in a bucket the past
// counts for a twelfth.
constexpr double kNewWeight = 0.4;
// Of the most pages seen: what lies beyond the longest sample is a guess.
constexpr double kBeyond = 1.5;

}  // namespace

void DirtyCurve::note(double run_ms, double pages) {
  if (!(run_ms > 0) || !(pages >= 0)) return;
  const double octave = std::max(0.0, 2 * std::log2(run_ms));
  Bucket& bucket = buckets_[std::min(static_cast<std::size_t>(octave), kBuckets - 1)];
  const double weight = bucket.run_ms == 0 ? 1 : kNewWeight;
  bucket.run_ms += weight * (run_ms - bucket.run_ms);
  bucket.pages += weight * (pages - bucket.pages);
  known_ = true;
}

/// What is known, from the origin on, rising.
std::size_t DirtyCurve::points(std::array<Point, kBuckets + 1>& into) const {
  std::size_t count = 1;
  into[0] = {};
  for (const Bucket& bucket : buckets_) {
    if (bucket.run_ms == 0) continue;
    into[count] = {bucket.run_ms, std::max(bucket.pages, into[count - 1].pages)};
    ++count;
  }
  return count;
}

double DirtyCurve::after(double run_ms) const {
  std::array<Point, kBuckets + 1> curve;
  const std::size_t count = points(curve);
  if (count < 2 || !(run_ms > 0)) return 0;
  std::size_t end = 1;
  while (end + 1 < count && curve[end].ms < run_ms) ++end;
  const Point& from = curve[end - 1];
  const Point& to = curve[end];
  const double pages =
      from.pages + (to.pages - from.pages) * (run_ms - from.ms) / (to.ms - from.ms);
  return std::min(pages, kBeyond * curve[count - 1].pages);
}

}  // namespace migrate::forecast
