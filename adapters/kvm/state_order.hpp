// In which order a VM's state is read and written, and why: as data, so that it can be checked.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::kvm {

/// A piece of state that is read or written by one step.
enum class Part : std::uint8_t {
  // Of the VM:
  kClock,     ///< KVM clock with the host's clocks.
  kPit,       ///< Only where there is one.
  kIrqchips,  ///< PICs and IOAPIC; only with an in-kernel irqchip.
  // Of a vCPU:
  kMpState,
  kTscKhz,
  kTscOffset,      ///< KVM_VCPU_TSC_OFFSET, or IA32_TSC where the kernel lacks it.
  kMachineChecks,  ///< How many banks of machine checks there are (MCG_CAP, KVM_X86_SETUP_MCE).
  kMsrs,           ///< All but, when loading, IA32_TSC and TSC_DEADLINE.
  kTscDeadline,
  kLapic,  ///< Only with an in-kernel irqchip.
  kSregs,
  kRegs,
  kXcrs,
  kXsave,
  kDebugRegs,
  kNested,   ///< Only where KVM runs guests of guests.
  kOneRegs,  ///< What has no other place (KVM_GET_REG_LIST), such as the shadow stack pointer.
  kEvents,
};
inline constexpr std::size_t kPartCount = 18;
[[nodiscard]] std::string_view to_string(Part part);
[[nodiscard]] constexpr bool of_vm(Part part) {
  return part == Part::kClock || part == Part::kPit || part == Part::kIrqchips;
}

/// `before` must be handled before `after`.
struct Edge {
  Part before;
  Part after;
  std::string_view reason;
};

[[nodiscard]] std::span<const Part> save_order();
[[nodiscard]] std::span<const Edge> save_edges();
[[nodiscard]] std::span<const Part> load_order();
[[nodiscard]] std::span<const Edge> load_edges();

/// Calls f for each run of `order` that is all the VM's or all a vCPU's, in turn: vCPUs take their
/// runs beside each other.
template <typename F>
Status in_runs(std::span<const Part> order, F f) {
  for (std::size_t from = 0; from < order.size();) {
    std::size_t to = from + 1;
    while (to < order.size() && of_vm(order[to]) == of_vm(order[from])) ++to;
    MIGRATE_TRY(f(order.subspan(from, to - from)));
    from = to;
  }
  return {};
}

/// What is wrong with `order`, in words: a part twice, one missing that an edge names, an edge
/// turned round. Empty when it is right.
[[nodiscard]] std::vector<std::string> order_faults(std::span<const Part> order,
                                                    std::span<const Edge> edges);

}  // namespace migrate::kvm
