// The guest's time across hosts: KVM clock and TSC. Pure.
#pragma once

#include <cstdint>

namespace migrate::kvm {

/// KVM_GET_CLOCK's answer, with our own reading of CLOCK_REALTIME where the kernel gives none.
struct ClockReading {
  std::uint64_t clock_ns = 0;     ///< The guest's KVM clock.
  std::uint64_t realtime_ns = 0;  ///< The host's CLOCK_REALTIME at that instant.
  std::uint64_t host_tsc = 0;     ///< The host's TSC at that instant, if has_host_tsc.
  bool has_host_tsc = false;
  bool kernel_realtime = false;  ///< realtime_ns was read by the kernel together with the clock.
};

/// How far a guest's clock is moved on at most for the time between save and load: 60 s. A
/// switchover is over within its lease of 10 s; more means that the hosts' clocks disagree, or that
/// the state comes from a file, and then time stands still for the guest instead.
inline constexpr std::uint64_t kElapsedMaxNs = 60'000'000'000;

/// Real time from `source` to `now_realtime_ns`; 0 where the clocks cannot be trusted.
[[nodiscard]] std::uint64_t elapsed_ns(const ClockReading& source, std::uint64_t now_realtime_ns);

/// Cycles of a counter of `khz` in `ns`, rounded down.
[[nodiscard]] std::uint64_t cycles_in(std::uint64_t ns, std::uint32_t khz);

/// The offset that makes the guest's TSC the same function of its KVM clock at the target as it was
/// at the source (the algorithm of the kernel's documentation of KVM_VCPU_TSC_OFFSET):
///   offset - (clock_source - clock_target) * khz + (tsc_source - tsc_target)
/// Equal offsets stay equal. Valid where neither host scales the TSC.
[[nodiscard]] std::int64_t target_tsc_offset(std::int64_t source_offset, const ClockReading& source,
                                             const ClockReading& target, std::uint32_t khz);

}  // namespace migrate::kvm
