#include "base/rate_limiter.hpp"

#include <algorithm>
#include <cmath>

namespace migrate {
namespace {

// One wait never exceeds this: far beyond any migration, and it keeps time arithmetic in range.
constexpr std::chrono::hours kWaitMax{24};

}  // namespace

RateLimiter::RateLimiter(std::uint64_t bytes_per_s, std::chrono::nanoseconds burst)
    : burst_(burst), bytes_per_s_(bytes_per_s) {}

double RateLimiter::burst_bytes() const {
  return burst_.count() * static_cast<double>(bytes_per_s_);
}

void RateLimiter::refill(Time now) {
  if (!started_) filled_at_ = now;
  started_ = true;
  // Lanes read the clock before they take the lock, so time may seem to step back a little.
  if (now <= filled_at_) return;
  const double seconds = std::chrono::duration<double>(now - filled_at_).count();
  tokens_ = std::min(burst_bytes(), tokens_ + seconds * static_cast<double>(bytes_per_s_));
  filled_at_ = now;
}

std::chrono::nanoseconds RateLimiter::reserve(std::uint64_t bytes, Time now) {
  MutexLock lock(mutex_);
  if (bytes_per_s_ == 0) return std::chrono::nanoseconds(0);
  refill(now);
  tokens_ -= static_cast<double>(bytes);
  if (tokens_ >= 0) return std::chrono::nanoseconds(0);
  const std::chrono::duration<double> wait(-tokens_ / static_cast<double>(bytes_per_s_));
  if (wait >= kWaitMax) return kWaitMax;
  // Counted from filled_at_, which is `now` unless another lane has already seen a later time.
  const auto rounded = std::chrono::ceil<std::chrono::nanoseconds>(wait);
  return std::max(rounded + (filled_at_ - now), std::chrono::nanoseconds(0));
}

void RateLimiter::set_rate(std::uint64_t bytes_per_s, Time now) {
  MutexLock lock(mutex_);
  if (bytes_per_s_ == 0) {
    tokens_ = 0;
    filled_at_ = now;
    started_ = true;
  } else {
    refill(now);
  }
  bytes_per_s_ = bytes_per_s;
  tokens_ = std::min(tokens_, burst_bytes());
}

std::uint64_t RateLimiter::rate() const {
  MutexLock lock(mutex_);
  return bytes_per_s_;
}

}  // namespace migrate
