// TestClock: time that stands still until a test turns it.
#pragma once

#include <chrono>

#include "base/mutex.hpp"
#include "migrate/clock.hpp"

namespace migrate::test {

/// Any thread may call any method.
class TestClock final : public Clock {
 public:
  [[nodiscard]] std::chrono::steady_clock::time_point now() const override {
    MutexLock lock(mutex_);
    return std::chrono::steady_clock::time_point(awake_);
  }
  [[nodiscard]] std::chrono::nanoseconds boottime() const override {
    MutexLock lock(mutex_);
    return awake_ + asleep_;
  }

  void advance(std::chrono::nanoseconds time) {
    MutexLock lock(mutex_);
    awake_ += time;
  }
  /// The host sleeps: boottime goes on, now() does not.
  void sleep_host(std::chrono::nanoseconds time) {
    MutexLock lock(mutex_);
    asleep_ += time;
  }

 private:
  mutable Mutex mutex_;
  // Not zero, so that code taking a zero time for "never" is found out.
  std::chrono::nanoseconds awake_ MIGRATE_GUARDED_BY(mutex_){std::chrono::hours(1)};
  std::chrono::nanoseconds asleep_ MIGRATE_GUARDED_BY(mutex_){std::chrono::hours(2)};
};

}  // namespace migrate::test
