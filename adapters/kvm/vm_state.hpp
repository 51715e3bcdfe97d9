// State of the VM beside its vCPUs: interrupt controllers, PIT, clock.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>

#include "adapters/kvm/clock.hpp"
#include "adapters/kvm/state_order.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

struct VmState {
  std::optional<kvm_irqchip> pic_master, pic_slave, ioapic;
  std::optional<kvm_pit_state2> pit;
  ClockReading clock;
  std::uint32_t host_tsc_khz = 0;  ///< Of the host the state was saved at; 0: unknown.
};

/// Which of it this VM has.
struct VmParts {
  int vm_fd = -1;
  bool irqchip = false;
  bool pit = false;
};

Status save_part(Part part, const VmParts& vm, VmState& state);

/// Writes one part. kClock also reads the clock back, into `clock_here`.
Status load_part(Part part, const VmParts& vm, const VmState& state, ClockReading& clock_here);

[[nodiscard]] Result<ClockReading> read_clock(int vm_fd);

}  // namespace migrate::kvm
