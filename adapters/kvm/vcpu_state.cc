#include "adapters/kvm/vcpu_state.hpp"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "adapters/kvm/kvm_abi.hpp"
#include "adapters/kvm/kvm_call.hpp"
#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/state_fit.hpp"

namespace migrate::kvm {
namespace {

/// Some KVMs take an offset and do not use it. Worth a note when the guest would see it: a
/// millisecond (kHz times ms are cycles) is less than any downtime, and more than reading errors.
constexpr std::int64_t kTscSlackMs = 1;

template <typename T>
Status get(int fd, unsigned long request, T& into, const char* name) {
  MIGRATE_TRY(call(fd, request, &into, name));
  return {};
}

template <typename T>
Status set(int fd, unsigned long request, const T& from, const char* name) {
  MIGRATE_TRY(call(fd, request, &from, name));
  return {};
}

kvm_device_attr tsc_offset_attribute(std::int64_t& value) {
  kvm_device_attr attribute{};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<std::uintptr_t>(&value);
  return attribute;
}

std::optional<std::int64_t> read_tsc_offset(int fd) {
  std::int64_t offset = 0;
  kvm_device_attr attribute = tsc_offset_attribute(offset);
  if (::ioctl(fd, KVM_GET_DEVICE_ATTR, &attribute) != 0) return std::nullopt;
  return offset;
}

Status save_sregs(int fd, const VcpuCaps& caps, VcpuState& state) {
  if (caps.sregs2) return get(fd, KVM_GET_SREGS2, state.sregs2.emplace(), "KVM_GET_SREGS2");
  return get(fd, KVM_GET_SREGS, state.sregs.emplace(), "KVM_GET_SREGS");
}

Status save_xsave(int fd, const VcpuCaps& caps, VcpuState& state) {
  state.xsave.resize(caps.xsave_bytes);
  if (caps.xsave2) {
    MIGRATE_TRY(call(fd, abi::kGetXsave2, state.xsave.data(), "KVM_GET_XSAVE2"));
  } else if (caps.xsave) {
    MIGRATE_TRY(call(fd, abi::kGetXsave, state.xsave.data(), "KVM_GET_XSAVE"));
  } else {
    return make_error(ErrorCode::kUnsupported, "KVM offers no XSAVE (KVM_CAP_XSAVE)")
        .advise("use a kernel of version 2.6.36 or newer");
  }
  return {};
}

Status save_nested(int fd, const VcpuCaps& caps, VcpuState& state) {
  state.nested.clear();
  if (caps.nested_bytes == 0) return {};
  state.nested.resize(caps.nested_bytes);
  kvm_nested_state header{};
  header.size = static_cast<std::uint32_t>(caps.nested_bytes);
  std::memcpy(state.nested.data(), &header, sizeof header);
  MIGRATE_TRY(call(fd, KVM_GET_NESTED_STATE, state.nested.data(), "KVM_GET_NESTED_STATE"));
  std::memcpy(&header, state.nested.data(), sizeof header);
  if (header.size > caps.nested_bytes) {
    return make_error(ErrorCode::kInternal, "KVM_GET_NESTED_STATE gave more than its limit");
  }
  state.nested.resize(header.size);
  return {};
}

/// A kernel without SREGS2 does without the page directory pointers, which it reads from memory.
kvm_sregs without_pdptrs(const kvm_sregs2& from) {
  kvm_sregs to{};
  to.cs = from.cs, to.ds = from.ds, to.es = from.es, to.fs = from.fs, to.gs = from.gs;
  to.ss = from.ss, to.tr = from.tr, to.ldt = from.ldt;
  to.gdt = from.gdt, to.idt = from.idt;
  to.cr0 = from.cr0, to.cr2 = from.cr2, to.cr3 = from.cr3, to.cr4 = from.cr4, to.cr8 = from.cr8;
  to.efer = from.efer, to.apic_base = from.apic_base;
  return to;
}

Status load_sregs(int fd, const VcpuCaps& caps, const VcpuState& state) {
  if (state.sregs2 && caps.sregs2) {
    return set(fd, KVM_SET_SREGS2, *state.sregs2, "KVM_SET_SREGS2");
  }
  const kvm_sregs sregs = state.sregs ? *state.sregs : without_pdptrs(*state.sregs2);
  return set(fd, KVM_SET_SREGS, sregs, "KVM_SET_SREGS");
}

Status load_tsc_khz(int fd, const VcpuCaps& caps, const VcpuState& state) {
  if (state.tsc_khz == 0 || !caps.get_tsc_khz) return {};
  MIGRATE_ASSIGN(const int khz, call(fd, KVM_GET_TSC_KHZ, 0UL, "KVM_GET_TSC_KHZ"));
  // Without TSC scaling the preflight has accepted the difference.
  if (static_cast<std::uint32_t>(khz) == state.tsc_khz || !caps.tsc_control) return {};
  MIGRATE_TRY(
      call(fd, KVM_SET_TSC_KHZ, static_cast<unsigned long>(state.tsc_khz), "KVM_SET_TSC_KHZ"));
  return {};
}

Status load_tsc_offset(int fd, const LoadContext& context, const VcpuState& state,
                       LoadNotes& notes) {
  const bool by_offset = state.tsc_offset && context.source_clock.has_host_tsc &&
                         context.target_clock.has_host_tsc && !context.scaled_tsc &&
                         state.tsc_khz != 0 && read_tsc_offset(fd).has_value();
  if (by_offset) {
    std::int64_t offset = target_tsc_offset(*state.tsc_offset, context.source_clock,
                                            context.target_clock, state.tsc_khz);
    kvm_device_attr attribute = tsc_offset_attribute(offset);
    MIGRATE_TRY(set(fd, KVM_SET_DEVICE_ATTR, attribute, "KVM_SET_DEVICE_ATTR (TSC offset)"));
    const std::int64_t here = read_tsc_offset(fd).value_or(offset);
    notes.tsc_offset_ignored = std::abs(here - offset) > kTscSlackMs * state.tsc_khz;
    return {};
  }
  // The former way: the value as it was read, moved on. KVM takes values written to vCPUs within a
  // second for one and the same when they fit the time that passed, and gives all the same offset.
  const kvm_msr_entry* saved = find_msr(state.msrs, kMsrTsc);
  if (saved == nullptr) return {};
  kvm_msr_entry entry = *saved;
  const std::uint64_t then = context.source_clock.clock_ns;
  const std::uint64_t now = context.target_clock.clock_ns;
  if (now > then) entry.data += cycles_in(now - then, state.tsc_khz);
  return write_msrs(fd, {&entry, 1}, notes.refused_msrs);
}

Status load_msrs(int fd, const VcpuState& state, LoadNotes& notes) {
  std::vector<kvm_msr_entry> values;
  values.reserve(state.msrs.size());
  for (const kvm_msr_entry& entry : state.msrs) {
    if (entry.index != kMsrTsc && entry.index != kMsrTscDeadline) values.push_back(entry);
  }
  sort_for_loading(values);
  return write_msrs(fd, values, notes.refused_msrs);
}

Status load_tsc_deadline(int fd, const VcpuState& state, LoadNotes& notes) {
  const kvm_msr_entry* deadline = find_msr(state.msrs, kMsrTscDeadline);
  if (deadline == nullptr) return {};
  return write_msrs(fd, {deadline, 1}, notes.refused_msrs);
}

/// XCR0 of saved XCRS; 0 where there are none.
std::uint64_t xcr0(const VcpuState& state) {
  if (!state.xcrs) return 0;
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(state.xcrs->nr_xcrs, KVM_MAX_XCRS); ++i) {
    if (state.xcrs->xcrs[i].xcr == 0) return state.xcrs->xcrs[i].value;
  }
  return 0;
}

Status load_xsave(int fd, const LoadContext& context, const VcpuState& state) {
  // Areas of features this host lacks were refused by the preflight; the kernel reads its own size.
  std::vector<std::byte> area = state.xsave;
  area.resize(std::max(area.size(), context.caps.xsave_bytes));
  fit_xsave(area, context.xsave_components | xcr0(state));
  MIGRATE_TRY(call(fd, abi::kSetXsave, area.data(), "KVM_SET_XSAVE"));
  return {};
}

Status load_machine_checks(int fd, const VcpuCaps& caps, const VcpuState& state) {
  if (!state.mcg_cap || !caps.mce) return {};
  MIGRATE_ASSIGN(const auto here, machine_check_cap(fd));
  // Setting it empties the banks; a vCPU that has what it needs is left alone.
  if (here == state.mcg_cap) return {};
  MIGRATE_TRY(set(fd, KVM_X86_SETUP_MCE, *state.mcg_cap, "KVM_X86_SETUP_MCE"));
  return {};
}

Status load_nested(int fd, const VcpuCaps& caps, const VcpuState& state) {
  if (state.nested.empty()) return {};
  kvm_nested_state header{};
  std::memcpy(&header, state.nested.data(), sizeof header);
  if (caps.nested_bytes == 0) {
    // A header alone says that the guest runs no guests.
    if (header.size <= sizeof header && (header.flags & KVM_STATE_NESTED_GUEST_MODE) == 0)
      return {};
    return make_error(ErrorCode::kIncompatible,
                      "the guest runs guests of its own, which this host's KVM does not allow")
        .advise("load the KVM module with nested=1 at the target");
  }
  if (header.size > caps.nested_bytes) {
    return make_error(ErrorCode::kIncompatible,
                      "the guest's nested state is larger than KVM takes");
  }
  MIGRATE_TRY(call(fd, KVM_SET_NESTED_STATE, state.nested.data(), "KVM_SET_NESTED_STATE"));
  return {};
}

Status load_events(int fd, const VcpuCaps& caps, const VcpuState& state) {
  MIGRATE_ASSIGN(const kvm_vcpu_events events, fit_events(state.events, caps));
  MIGRATE_TRY(set(fd, KVM_SET_VCPU_EVENTS, events, "KVM_SET_VCPU_EVENTS"));
  tell_of_the_pause(fd, caps);
  return {};
}

}  // namespace

void tell_of_the_pause(int vcpu_fd, const VcpuCaps& caps) {
  // KVM refuses where the guest does not use kvmclock.
  if (caps.kvmclock_ctrl) (void)::ioctl(vcpu_fd, KVM_KVMCLOCK_CTRL, 0);
}

void reserve(VcpuState& state, const VcpuCaps& caps, std::size_t msrs) {
  state.xsave.resize(caps.xsave_bytes);
  state.nested.reserve(caps.nested_bytes);
  state.msrs.reserve(msrs);
}

Status save_part(Part part, int vcpu_fd, const VcpuCaps& caps, std::span<const std::uint32_t> msrs,
                 VcpuState& state, std::vector<std::uint32_t>& unreadable) {
  switch (part) {
    case Part::kMpState:
      return get(vcpu_fd, KVM_GET_MP_STATE, state.mp_state, "KVM_GET_MP_STATE");
    case Part::kTscKhz: {
      if (!caps.get_tsc_khz) return {};
      MIGRATE_ASSIGN(const int khz, call(vcpu_fd, KVM_GET_TSC_KHZ, 0UL, "KVM_GET_TSC_KHZ"));
      state.tsc_khz = static_cast<std::uint32_t>(khz);
      return {};
    }
    case Part::kTscOffset:
      state.tsc_offset = read_tsc_offset(vcpu_fd);
      return {};
    case Part::kMachineChecks: {
      if (!caps.mce) return {};
      MIGRATE_ASSIGN(state.mcg_cap, machine_check_cap(vcpu_fd));
      return {};
    }
    case Part::kMsrs:
      state.msrs.clear();
      return read_msrs(vcpu_fd, msrs, state.msrs, unreadable);
    case Part::kLapic:
      if (!caps.lapic) return {};
      return get(vcpu_fd, KVM_GET_LAPIC, state.lapic.emplace(), "KVM_GET_LAPIC");
    case Part::kSregs:
      return save_sregs(vcpu_fd, caps, state);
    case Part::kRegs:
      return get(vcpu_fd, KVM_GET_REGS, state.regs, "KVM_GET_REGS");
    case Part::kXcrs:
      if (!caps.xcrs) return {};
      return get(vcpu_fd, KVM_GET_XCRS, state.xcrs.emplace(), "KVM_GET_XCRS");
    case Part::kXsave:
      return save_xsave(vcpu_fd, caps, state);
    case Part::kDebugRegs:
      if (!caps.debugregs) return {};
      return get(vcpu_fd, KVM_GET_DEBUGREGS, state.debugregs.emplace(), "KVM_GET_DEBUGREGS");
    case Part::kNested:
      return save_nested(vcpu_fd, caps, state);
    case Part::kOneRegs:
      if (!caps.one_regs) return {};
      return read_one_regs(vcpu_fd, state.one_regs);
    case Part::kEvents:
      return get(vcpu_fd, KVM_GET_VCPU_EVENTS, state.events, "KVM_GET_VCPU_EVENTS");
    case Part::kTscDeadline:
    case Part::kClock:
    case Part::kPit:
    case Part::kIrqchips:
      break;
  }
  detail::check_failed("a part that a vCPU is asked for", __FILE__, __LINE__);
}

Status load_part(Part part, int vcpu_fd, const LoadContext& context, const VcpuState& state,
                 LoadNotes& notes) {
  const VcpuCaps& caps = context.caps;
  switch (part) {
    case Part::kMpState:
      return set(vcpu_fd, KVM_SET_MP_STATE, state.mp_state, "KVM_SET_MP_STATE");
    case Part::kTscKhz:
      return load_tsc_khz(vcpu_fd, caps, state);
    case Part::kTscOffset:
      return load_tsc_offset(vcpu_fd, context, state, notes);
    case Part::kMachineChecks:
      return load_machine_checks(vcpu_fd, caps, state);
    case Part::kMsrs:
      return load_msrs(vcpu_fd, state, notes);
    case Part::kTscDeadline:
      return load_tsc_deadline(vcpu_fd, state, notes);
    case Part::kLapic:
      if (!state.lapic) return {};
      return set(vcpu_fd, KVM_SET_LAPIC, *state.lapic, "KVM_SET_LAPIC");
    case Part::kSregs:
      return load_sregs(vcpu_fd, caps, state);
    case Part::kRegs:
      return set(vcpu_fd, KVM_SET_REGS, state.regs, "KVM_SET_REGS");
    case Part::kXcrs:
      if (!state.xcrs) return {};
      return set(vcpu_fd, KVM_SET_XCRS, *state.xcrs, "KVM_SET_XCRS");
    case Part::kXsave:
      return load_xsave(vcpu_fd, context, state);
    case Part::kDebugRegs:
      if (!state.debugregs) return {};
      return set(vcpu_fd, KVM_SET_DEBUGREGS, *state.debugregs, "KVM_SET_DEBUGREGS");
    case Part::kNested:
      return load_nested(vcpu_fd, caps, state);
    case Part::kOneRegs:
      return write_one_regs(vcpu_fd, state.one_regs);
    case Part::kEvents:
      return load_events(vcpu_fd, caps, state);
    case Part::kClock:
    case Part::kPit:
    case Part::kIrqchips:
      break;
  }
  detail::check_failed("a part that a vCPU is given", __FILE__, __LINE__);
}

Result<std::vector<std::uint32_t>> lost_msrs(int vcpu_fd, std::span<const kvm_msr_entry> refused) {
  std::vector<std::uint32_t> lost;
  for (const kvm_msr_entry& entry : refused) {
    std::vector<kvm_msr_entry> here;
    std::vector<std::uint32_t> unreadable;
    MIGRATE_TRY(read_msrs(vcpu_fd, {&entry.index, 1}, here, unreadable));
    const std::uint64_t value = here.empty() ? 0 : here.front().data;
    if (value != entry.data) lost.push_back(entry.index);
  }
  return lost;
}

}  // namespace migrate::kvm
