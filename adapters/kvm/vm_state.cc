#include "adapters/kvm/vm_state.hpp"

#include <time.h>

#include "adapters/kvm/kvm_call.hpp"

namespace migrate::kvm {
namespace {

std::uint64_t host_realtime_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

Status save_chip(int vm_fd, std::uint32_t id, std::optional<kvm_irqchip>& chip) {
  chip.emplace();
  chip->chip_id = id;
  MIGRATE_TRY(call(vm_fd, KVM_GET_IRQCHIP, &*chip, "KVM_GET_IRQCHIP"));
  return {};
}

Status load_chip(int vm_fd, const std::optional<kvm_irqchip>& chip) {
  if (!chip) return {};
  MIGRATE_TRY(call(vm_fd, KVM_SET_IRQCHIP, &*chip, "KVM_SET_IRQCHIP"));
  return {};
}

Status save_irqchips(const VmParts& vm, VmState& state) {
  if (!vm.irqchip) return {};
  MIGRATE_TRY(save_chip(vm.vm_fd, KVM_IRQCHIP_PIC_MASTER, state.pic_master));
  MIGRATE_TRY(save_chip(vm.vm_fd, KVM_IRQCHIP_PIC_SLAVE, state.pic_slave));
  return save_chip(vm.vm_fd, KVM_IRQCHIP_IOAPIC, state.ioapic);
}

Status load_irqchips(const VmParts& vm, const VmState& state) {
  MIGRATE_TRY(load_chip(vm.vm_fd, state.pic_master));
  MIGRATE_TRY(load_chip(vm.vm_fd, state.pic_slave));
  return load_chip(vm.vm_fd, state.ioapic);
}

Status load_clock(int vm_fd, const ClockReading& source, ClockReading& here) {
  const std::uint64_t elapsed = elapsed_ns(source, host_realtime_ns());
  kvm_clock_data data{};
  data.clock = source.clock_ns;
  const bool kernel_adds = (extension(vm_fd, KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_REALTIME) != 0;
  if (elapsed > 0 && source.kernel_realtime && kernel_adds) {
    data.flags = KVM_CLOCK_REALTIME;
    data.realtime = source.realtime_ns;
  } else {
    data.clock += elapsed;
  }
  MIGRATE_TRY(call(vm_fd, KVM_SET_CLOCK, &data, "KVM_SET_CLOCK"));
  MIGRATE_ASSIGN(here, read_clock(vm_fd));
  return {};
}

}  // namespace

Result<ClockReading> read_clock(int vm_fd) {
  kvm_clock_data data{};
  MIGRATE_TRY(call(vm_fd, KVM_GET_CLOCK, &data, "KVM_GET_CLOCK"));
  ClockReading reading;
  reading.clock_ns = data.clock;
  reading.has_host_tsc = (data.flags & KVM_CLOCK_HOST_TSC) != 0;
  reading.host_tsc = reading.has_host_tsc ? data.host_tsc : 0;
  reading.kernel_realtime = (data.flags & KVM_CLOCK_REALTIME) != 0;
  reading.realtime_ns = reading.kernel_realtime ? data.realtime : host_realtime_ns();
  return reading;
}

Status save_part(Part part, const VmParts& vm, VmState& state) {
  switch (part) {
    case Part::kClock: {
      MIGRATE_ASSIGN(state.clock, read_clock(vm.vm_fd));
      return {};
    }
    case Part::kPit:
      if (!vm.pit) return {};
      MIGRATE_TRY(call(vm.vm_fd, KVM_GET_PIT2, &state.pit.emplace(), "KVM_GET_PIT2"));
      return {};
    case Part::kIrqchips:
      return save_irqchips(vm, state);
    default:
      break;
  }
  detail::check_failed("a part that a VM is asked for", __FILE__, __LINE__);
}

Status load_part(Part part, const VmParts& vm, const VmState& state, ClockReading& clock_here) {
  switch (part) {
    case Part::kClock:
      return load_clock(vm.vm_fd, state.clock, clock_here);
    case Part::kPit:
      if (!state.pit) return {};
      MIGRATE_TRY(call(vm.vm_fd, KVM_SET_PIT2, &*state.pit, "KVM_SET_PIT2"));
      return {};
    case Part::kIrqchips:
      return load_irqchips(vm, state);
    default:
      break;
  }
  detail::check_failed("a part that a VM is given", __FILE__, __LINE__);
}

}  // namespace migrate::kvm
