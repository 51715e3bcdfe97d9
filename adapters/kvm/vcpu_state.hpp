// A vCPU's state: what it is made of, and how each part is read from and written to KVM.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "adapters/kvm/clock.hpp"
#include "adapters/kvm/one_regs.hpp"
#include "adapters/kvm/state_order.hpp"
#include "adapters/kvm/vcpu_caps.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

struct VcpuState {
  kvm_mp_state mp_state{};
  kvm_regs regs{};
  std::optional<kvm_sregs> sregs;    ///< This one, or
  std::optional<kvm_sregs2> sregs2;  ///< this one.
  std::optional<kvm_xcrs> xcrs;
  std::vector<std::byte> xsave;
  std::optional<kvm_debugregs> debugregs;
  std::optional<kvm_lapic_state> lapic;
  std::vector<kvm_msr_entry> msrs;
  std::vector<std::byte> nested;  ///< kvm_nested_state with its data; empty: none.
  std::vector<OneReg> one_regs;
  std::optional<std::uint64_t> mcg_cap;  ///< Banks of machine checks and what they can.
  kvm_vcpu_events events{};
  std::uint32_t tsc_khz = 0;  ///< 0: unknown.
  std::optional<std::int64_t> tsc_offset;
};

/// Makes the room that save_part() fills, so that saving allocates nothing.
void reserve(VcpuState& state, const VcpuCaps& caps, std::size_t msrs);

/// Reads one part. `msrs` is what kMsrs reads; those refused are left out and added to
/// `unreadable`.
Status save_part(Part part, int vcpu_fd, const VcpuCaps& caps, std::span<const std::uint32_t> msrs,
                 VcpuState& state, std::vector<std::uint32_t>& unreadable);

/// What loading one vCPU needs to know of the rest of the VM, and what it tells.
struct LoadContext {
  VcpuCaps caps;
  ClockReading source_clock;
  ClockReading target_clock;  ///< After the clock was set.
  bool scaled_tsc = false;    ///< The frequencies of guest and host differ at either side.
  /// What the guest can have in XCR0, by its CPUID.
  std::uint64_t xsave_components = ~std::uint64_t{0};
};
struct LoadNotes {
  std::vector<kvm_msr_entry> refused_msrs;
  bool tsc_offset_ignored = false;
};

/// Writes one part.
Status load_part(Part part, int vcpu_fd, const LoadContext& context, const VcpuState& state,
                 LoadNotes& notes);

/// Tells a guest that uses kvmclock that it was stopped, so that its watchdogs (soft lockup, RCU)
/// forgive the gap. Before the vCPU runs on.
void tell_of_the_pause(int vcpu_fd, const VcpuCaps& caps);

/// The refused MSRs whose value here is not the one that was to be written: guest state that would
/// be lost.
[[nodiscard]] Result<std::vector<std::uint32_t>> lost_msrs(int vcpu_fd,
                                                           std::span<const kvm_msr_entry> refused);

}  // namespace migrate::kvm
