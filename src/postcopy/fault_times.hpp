// FaultTimes: how long faults took, and which threads waited for them.
#pragma once

#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace migrate::postcopy {

using std::chrono::nanoseconds;

/// One thread at a time.
class FaultTimes {
 public:
  /// A page that was waited for is in place.
  void note_fault(nanoseconds took);
  /// A thread waited; 0: one that is not known.
  void note_stall(int thread, nanoseconds waited);

  [[nodiscard]] std::uint64_t count() const { return count_; }
  /// The time that `share` (0 to 1) of the faults did not exceed, within 2 %; 0 without faults.
  [[nodiscard]] double quantile_us(double share) const;
  [[nodiscard]] double max_us() const;
  /// In order of threads.
  [[nodiscard]] std::vector<std::pair<int, double>> stall_us_by_thread() const;

 private:
  /// Buckets of a 32nd of an octave: their middle is at most 1/64 off.
  static constexpr unsigned kStepBits = 5;
  static constexpr std::size_t kBuckets = (64 - kStepBits + 1) << kStepBits;
  /// vCPUs, and the kernel's own threads that fault for them. More are not told apart.
  static constexpr std::size_t kThreadsMax = 8192;
  static std::size_t bucket_of(std::uint64_t ns);
  static double middle_ns(std::size_t bucket);

  std::array<std::uint32_t, kBuckets> buckets_{};
  std::uint64_t count_ = 0;
  nanoseconds max_{0};
  std::unordered_map<int, nanoseconds> stalls_;
};

}  // namespace migrate::postcopy
