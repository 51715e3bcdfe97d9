// RateLimiter: a token bucket that several lanes share. Reads no clock and never sleeps.
#pragma once

#include <chrono>
#include <cstdint>

#include "base/mutex.hpp"

namespace migrate {

/// Any thread may call any method.
class RateLimiter {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// `bytes_per_s` 0 means no limit. Who comes late may catch up on `burst`, no more: a pause, or a
  /// thread that sleeps too long, earns what the rate lets through in that time. It begins empty,
  /// so what has left is never more than the rate times the time since the first booking.
  RateLimiter(std::uint64_t bytes_per_s, std::chrono::nanoseconds burst);

  /// Books `bytes` and returns how long the caller must wait before it sends them; the booking
  /// stands, so those that come later wait longer. One booking may exceed the burst.
  [[nodiscard]] std::chrono::nanoseconds reserve(std::uint64_t bytes, Time now)
      MIGRATE_EXCLUDES(mutex_);

  /// Changes the rate from `now` on; what is booked and has not left is paid at the new rate, and
  /// what was earned is worth no more than the burst at the new rate.
  void set_rate(std::uint64_t bytes_per_s, Time now) MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] std::uint64_t rate() const MIGRATE_EXCLUDES(mutex_);

 private:
  void refill(Time now) MIGRATE_REQUIRES(mutex_);
  [[nodiscard]] double burst_bytes() const MIGRATE_REQUIRES(mutex_);

  mutable Mutex mutex_;
  const std::chrono::duration<double> burst_;
  std::uint64_t bytes_per_s_ MIGRATE_GUARDED_BY(mutex_);
  // Negative while bookings wait. A double counts bytes exactly up to 2^53.
  double tokens_ MIGRATE_GUARDED_BY(mutex_) = 0;
  Time filled_at_ MIGRATE_GUARDED_BY(mutex_){};
  bool started_ MIGRATE_GUARDED_BY(mutex_) = false;
};

}  // namespace migrate
