// Clock: the one place that reads time, so that tests can turn it.
#pragma once

#include <chrono>

namespace migrate {

/// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  /// CLOCK_MONOTONIC: for durations.
  [[nodiscard]] virtual std::chrono::steady_clock::time_point now() const = 0;
  /// CLOCK_BOOTTIME: goes on while the host sleeps; for leases.
  [[nodiscard]] virtual std::chrono::nanoseconds boottime() const = 0;
};

/// The system's clocks; lives for the process.
[[nodiscard]] Clock& system_clock();

}  // namespace migrate
