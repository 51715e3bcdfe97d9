#include "adapters/kvm/state_order.hpp"

#include <algorithm>
#include <array>

namespace migrate::kvm {
namespace {

using enum Part;

// TSC_DEADLINE is read with the other MSRs.
constexpr std::array<Part, kPartCount - 1> kSaveOrder = {
    kClock, kPit,  kIrqchips, kMpState, kTscKhz,    kTscOffset, kMachineChecks, kMsrs,   kLapic,
    kSregs, kRegs, kXcrs,     kXsave,   kDebugRegs, kNested,    kOneRegs,       kEvents,
};

// With KVM_CAP_EXCEPTION_PAYLOAD, which the adapter turns on, EVENTS changes neither CR2 nor DR6;
// without it, it would have to come before SREGS and DEBUGREGS.
constexpr std::array kSaveEdges = std::to_array<Edge>({
    {kMpState, kLapic, "reading it takes a pending INIT or SIPI out of the LAPIC"},
    {kMpState, kRegs, "a SIPI that is taken sets the registers"},
    {kMpState, kSregs, "a SIPI that is taken sets the code segment"},
    {kPit, kIrqchips, "a tick between the two is seen twice, not lost"},
    {kIrqchips, kLapic, "an interrupt on its way between the two is seen twice, not lost"},
    {kClock, kTscOffset, "a TSC read from here on is not behind the clock it is moved on by"},
    {kClock, kMsrs, "a TSC read from here on is not behind the clock it is moved on by"},
    {kMsrs, kLapic, "a TSC deadline that passes between the two is seen twice, not lost"},
    {kMsrs, kEvents, "events come last"},
    {kLapic, kEvents, "events come last"},
    {kRegs, kEvents, "events come last"},
    {kSregs, kEvents, "events come last"},
    {kNested, kEvents, "events come last"},
    {kOneRegs, kEvents, "events come last"},
    {kMpState, kEvents, "a SIPI that is taken changes pending events"},
});

constexpr std::array<Part, kPartCount> kLoadOrder = {
    kClock,  kTscKhz, kSregs,   kXcrs,    kXsave,     kLapic,  kTscOffset,   kMachineChecks, kMsrs,
    kNested, kRegs,   kOneRegs, kMpState, kDebugRegs, kEvents, kTscDeadline, kIrqchips,      kPit,
};

constexpr std::array kLoadEdges = std::to_array<Edge>({
    {kClock, kTscOffset, "the offset is computed from the clock as it stands here"},
    {kClock, kMsrs, "writing the wall clock's MSR takes it from the KVM clock"},
    {kTscKhz, kTscOffset, "the offset counts in cycles of the guest's frequency"},
    {kTscKhz, kMsrs, "IA32_TSC and kvmclock are scaled by the guest's frequency"},
    {kTscOffset, kTscDeadline, "a deadline is compared with the guest's TSC"},
    {kLapic, kTscDeadline, "a deadline is dropped unless the LAPIC's timer is in that mode"},
    {kMsrs, kTscDeadline, "a deadline that has passed fires at once, into settled state"},
    {kSregs, kLapic, "APIC_BASE chooses the layout of the LAPIC's registers (xAPIC, x2APIC)"},
    {kSregs, kMsrs, "EFER and APIC_BASE stand before the MSRs that depend on them"},
    {kLapic, kMsrs, "paravirtual MSRs (EOI, async page faults) need the LAPIC enabled"},
    {kMachineChecks, kMsrs, "setting the number of banks fills their MSRs anew"},
    {kXcrs, kXsave, "XCR0 first, as a guest would enable a feature before it loads its state"},
    {kXsave, kMsrs, "XFD disarms dynamic features whose state must be in place by then"},
    {kSregs, kNested, "nested state is validated against CR0, CR4 and EFER"},
    {kMsrs, kNested, "it needs FEATURE_CONTROL and the VMX and SVM MSRs"},
    {kNested, kRegs, "entering the nested guest replaces RIP, RSP and RFLAGS"},
    {kNested, kOneRegs, "entering the nested guest replaces the shadow stack pointer"},
    {kSregs, kMpState, "setting reset-like segments marks the boot vCPU runnable"},
    {kRegs, kEvents, "setting registers drops a pending exception"},
    {kSregs, kEvents, "SREGS may queue an interrupt of its own; EVENTS has the last word"},
    {kLapic, kEvents, "an INIT that is held back in system management mode is kept in the LAPIC"},
    {kNested, kEvents, "an exception is pending for the guest or for its guest"},
    {kLapic, kIrqchips, "the IOAPIC delivers what is pending in it to the LAPICs at once"},
    {kIrqchips, kPit, "the PIT's timer starts and ticks into the PIC and the IOAPIC"},
});

/// A wrong order does not compile; order_faults() says why.
constexpr bool holds(std::span<const Part> order, std::span<const Edge> edges) {
  return std::all_of(edges.begin(), edges.end(), [&](const Edge& edge) {
    const auto before = std::find(order.begin(), order.end(), edge.before);
    const auto after = std::find(order.begin(), order.end(), edge.after);
    return before != order.end() && after != order.end() && before < after;
  });
}
static_assert(holds(kSaveOrder, kSaveEdges));
static_assert(holds(kLoadOrder, kLoadEdges));

constexpr std::array<std::string_view, kPartCount> kNames = {"clock",
                                                             "PIT",
                                                             "irqchips",
                                                             "MP_STATE",
                                                             "TSC_KHZ",
                                                             "TSC offset",
                                                             "machine checks",
                                                             "MSRs",
                                                             "TSC deadline",
                                                             "LAPIC",
                                                             "SREGS",
                                                             "REGS",
                                                             "XCRS",
                                                             "XSAVE",
                                                             "DEBUGREGS",
                                                             "nested state",
                                                             "registers by number",
                                                             "EVENTS"};

}  // namespace

std::string_view to_string(Part part) { return kNames[static_cast<std::size_t>(part)]; }

std::span<const Part> save_order() { return kSaveOrder; }
std::span<const Edge> save_edges() { return kSaveEdges; }
std::span<const Part> load_order() { return kLoadOrder; }
std::span<const Edge> load_edges() { return kLoadEdges; }

std::vector<std::string> order_faults(std::span<const Part> order, std::span<const Edge> edges) {
  std::vector<std::string> faults;
  for (std::size_t i = 0; i < kPartCount; ++i) {
    const Part part = static_cast<Part>(i);
    if (std::count(order.begin(), order.end(), part) > 1) {
      faults.push_back(std::string(to_string(part)) + " stands twice in the order");
    }
  }
  for (const Edge& edge : edges) {
    const auto before = std::find(order.begin(), order.end(), edge.before);
    const auto after = std::find(order.begin(), order.end(), edge.after);
    if (before == order.end() || after == order.end()) {
      const Part part = before == order.end() ? edge.before : edge.after;
      faults.push_back(std::string(to_string(part)) + " is missing from the order");
    } else if (before > after) {
      faults.push_back(std::string(to_string(edge.before)) + " must come before " +
                       std::string(to_string(edge.after)) + ": " + std::string(edge.reason));
    }
  }
  return faults;
}

}  // namespace migrate::kvm
