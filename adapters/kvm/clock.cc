#include "adapters/kvm/clock.hpp"

namespace migrate::kvm {

std::uint64_t elapsed_ns(const ClockReading& source, std::uint64_t now_realtime_ns) {
  if (source.realtime_ns == 0 || now_realtime_ns <= source.realtime_ns) return 0;
  const std::uint64_t elapsed = now_realtime_ns - source.realtime_ns;
  return elapsed <= kElapsedMaxNs ? elapsed : 0;
}

std::uint64_t cycles_in(std::uint64_t ns, std::uint32_t khz) {
  // In two parts, because ns * khz passes 64 bits after an hour.
  constexpr std::uint64_t kNsPerMs = 1'000'000;
  return ns / kNsPerMs * khz + ns % kNsPerMs * khz / kNsPerMs;
}

std::int64_t target_tsc_offset(std::int64_t source_offset, const ClockReading& source,
                               const ClockReading& target, std::uint32_t khz) {
  // Modulo 2^64 throughout, as the TSC itself counts.
  const auto guest_passed =
      target.clock_ns >= source.clock_ns
          ? cycles_in(target.clock_ns - source.clock_ns, khz)
          : std::uint64_t{0} - cycles_in(source.clock_ns - target.clock_ns, khz);
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(source_offset) + guest_passed +
                                   source.host_tsc - target.host_tsc);
}

}  // namespace migrate::kvm
