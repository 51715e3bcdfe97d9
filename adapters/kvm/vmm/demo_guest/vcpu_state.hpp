// One vCPU of the demo guest: what it is to do, its counters, its clock. Only for the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/cpu.hpp"
#include "adapters/kvm/vmm/demo_guest/fill.hpp"

namespace migrate::vmm::demo {

inline const ControlBlock& control() {
  return *reinterpret_cast<const ControlBlock*>(kControlBlock);
}

inline std::uint64_t* page_words(std::uint64_t page) {
  return reinterpret_cast<std::uint64_t*>(address_of_page(page));
}

class VcpuState {
 public:
  explicit VcpuState(std::uint64_t id)
      : plan(control().plans[id]),
        counters(reinterpret_cast<volatile VcpuCounters*>(kCounters)[id]),
        canary_(mix(control().seed + id)) {
    set_canary(canary_);
    counters.last_tsc = read_tsc();
  }

  const VcpuPlan& plan;
  volatile VcpuCounters& counters;

  /// Moves the clock on and looks at the canary. Returns the ticks since the last call.
  std::uint64_t tick() {
    const std::uint64_t now = read_tsc();
    const std::uint64_t last = counters.last_tsc;
    counters.last_tsc = now;
    if (const std::uint64_t found = canary(); found != canary_) {
      report(ErrorKind::kRegisters, 0, canary_, found);
      set_canary(canary_);
    }
    if (now < last) {
      report(ErrorKind::kClock, 0, last, now);
      return 0;
    }
    counters.uptime_ticks = counters.uptime_ticks + (now - last);
    return now - last;
  }

  void report(ErrorKind kind, std::uint64_t page, std::uint64_t expected, std::uint64_t found) {
    if (counters.errors == 0) {
      counters.first_page = page;
      counters.first_expected = expected;
      counters.first_found = found;
      counters.first_kind = kind;
    }
    counters.errors = counters.errors + 1;
    // Each report leaves the guest: with all of memory wrong it would do nothing else.
    if (counters.errors <= kReportsMax) port_out(kPortReport, static_cast<std::uint32_t>(kind));
  }

  static std::uint64_t ticks(std::uint64_t us) { return us * control().tsc_khz / 1000; }

 private:
  static constexpr std::uint64_t kReportsMax = 16;
  const std::uint64_t canary_;
};

}  // namespace migrate::vmm::demo
