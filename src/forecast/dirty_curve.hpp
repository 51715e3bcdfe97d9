// DirtyCurve: how many different pages a guest writes in a time, learnt from samples of its
// tracker.
#pragma once

#include <array>
#include <cstddef>

namespace migrate::forecast {

/// U(dt): pages written at least once in dt of run time, when all were clean before. Rises, and
/// ever more slowly, as pages are written again. One thread.
class DirtyCurve {
 public:
  /// `pages` were dirty after `run_ms` in which the guest ran. Newer samples outweigh older ones.
  void note(double run_ms, double pages);

  [[nodiscard]] bool known() const { return known_; }
  /// Pages after `run_ms`; 0 while nothing is known. Beyond the longest sample the last slope goes
  /// on, until half as many again are dirty.
  [[nodiscard]] double after(double run_ms) const;

 private:
  // Half octaves from 1 ms on: the last is half an hour.
  static constexpr std::size_t kBuckets = 42;
  struct Bucket {
    double run_ms = 0;  // Of its samples, as weighted; 0: none.
    double pages = 0;
  };
  struct Point {
    double ms = 0, pages = 0;
  };
  [[nodiscard]] std::size_t points(std::array<Point, kBuckets + 1>& into) const;

  std::array<Bucket, kBuckets> buckets_{};
  bool known_ = false;
};

}  // namespace migrate::forecast
