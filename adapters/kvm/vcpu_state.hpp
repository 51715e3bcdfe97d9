// A vCPU's state: what it is made of, and how each part is read from and written to KVM.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "adapters/kvm/clock.hpp"
#include "adapters/kvm/kvm_abi.hpp"
#include "adapters/kvm/state_order.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

/// What the kernel offers a VM's vCPUs.
struct VcpuCaps {
  std::size_t xsave_bytes = abi::kXsaveBytesMin;
  bool xsave2 = false;
  bool xsave = false;
  bool xcrs = false;
  bool debugregs = false;
  bool sregs2 = false;
  std::size_t nested_bytes = 0;  ///< 0: no guests of guests.
  bool get_tsc_khz = false;
  bool tsc_control = false;  ///< The TSC's frequency can be set.
  bool kvmclock_ctrl = false;
  bool irqchip = false;
};
[[nodiscard]] VcpuCaps vcpu_caps(int vm_fd, bool irqchip);

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
};
struct LoadNotes {
  std::vector<kvm_msr_entry> refused_msrs;
  bool tsc_offset_ignored = false;
};

/// Writes one part.
Status load_part(Part part, int vcpu_fd, const LoadContext& context, const VcpuState& state,
                 LoadNotes& notes);

/// The refused MSRs whose value here is not the one that was to be written: guest state that would
/// be lost.
[[nodiscard]] Result<std::vector<std::uint32_t>> lost_msrs(int vcpu_fd,
                                                           std::span<const kvm_msr_entry> refused);

}  // namespace migrate::kvm
