// How the demo guest keeps to a rate. Only for the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/vcpu_state.hpp"

namespace migrate::vmm::demo {

/// Gives out pages at a rate, measured by the time stamp counter.
class Pace {
 public:
  /// After standing still (a downtime, a busy host) at most this much is caught up on: the guest
  /// shall not answer each migration with a burst.
  static constexpr std::uint64_t kCatchUpUs = 20'000;
  /// How many pages a round of an unbound loop works on before it looks at anything else.
  static constexpr std::uint64_t kUnboundPages = 64;
  /// Waiting for less than this costs more than it gives back: leaving the guest and a timer.
  static constexpr std::uint64_t kWaitMinUs = 1000;
  static constexpr std::uint64_t kWaitMaxUs = 10'000;

  explicit Pace(const VcpuPlan& plan)
      : rate_(plan.rate_bytes_per_s), bursts_(plan.pattern == Pattern::kBurst) {}

  /// Books the time since the last call; returns how many pages are due now. They count as done.
  std::uint64_t due(const VcpuState& vcpu, std::uint64_t elapsed) {
    if (bursts_ && !in_burst(vcpu)) return 0;
    if (rate_ == 0) return kUnboundPages;
    const std::uint64_t longest = VcpuState::ticks(kCatchUpUs);
    // At most 20 ms (1e8 ticks at 5 GHz) x 4 x 16 GiB/s: within 64 bits.
    rest_ += (elapsed < longest ? elapsed : longest) * (bursts_ ? 4 * rate_ : rate_);
    const std::uint64_t ticks_per_s = VcpuState::ticks(1'000'000);
    credit_ += rest_ / ticks_per_s;
    rest_ %= ticks_per_s;
    const std::uint64_t pages = credit_ / kPage;
    credit_ %= kPage;
    return pages;
  }

  /// Nothing is due: how long until there is, in microseconds.
  [[nodiscard]] std::uint32_t wait_us() const {
    if (rate_ == 0) return kWaitMinUs;
    const std::uint64_t until_page = (kPage - credit_) * 1'000'000 / rate_;
    if (until_page < kWaitMinUs) return kWaitMinUs;
    return static_cast<std::uint32_t>(until_page < kWaitMaxUs ? until_page : kWaitMaxUs);
  }

 private:
  [[nodiscard]] static bool in_burst(const VcpuState& vcpu) {
    const std::uint64_t second = VcpuState::ticks(1'000'000);
    return vcpu.counters.uptime_ticks % second < second / 4;
  }

  const std::uint64_t rate_;
  const bool bursts_;
  std::uint64_t credit_ = 0;
  std::uint64_t rest_ = 0;
};

}  // namespace migrate::vmm::demo
