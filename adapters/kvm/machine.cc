#include "adapters/kvm/machine.hpp"

#include <algorithm>
#include <string>

#include "base/bytes.hpp"

namespace migrate::kvm {
namespace {

constexpr std::uint32_t kFlagIrqchip = 1;
constexpr std::uint32_t kFlagPit = 2;
constexpr std::uint32_t kSlotReadOnly = 1;
/// Limits on what a peer may claim: KVM has at most 4096 vCPUs and 32764 slots, x86 52 address
/// bits.
constexpr std::uint32_t kVcpusMax = 4096;
constexpr std::uint32_t kSlotsMax = 32764;
constexpr std::uint64_t kPagesMax = std::uint64_t{1} << 40;

Error malformed(const std::string& what) {
  return make_error(ErrorCode::kProtocol, "the guest's description is malformed: " + what);
}

Status check_region(const Region& region) {
  const PageRange& range = region.range;
  if (region.id.space != 0 || region.id.generation != 0) {
    return malformed("region " + to_text(region.id) + " is not a memory slot");
  }
  if (range.count == 0 || range.count > kPagesMax || range.first.number > kPagesMax) {
    return malformed("region " + to_text(region.id) + " lies outside of any address space");
  }
  return {};
}

Status check_regions(const std::vector<Region>& regions) {
  if (regions.empty() || regions.size() > kSlotsMax) return malformed("it has no memory slots");
  std::vector<PageRange> ranges;
  for (const Region& region : regions) {
    MIGRATE_TRY(check_region(region));
    ranges.push_back(region.range);
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const PageRange& a, const PageRange& b) { return a.first < b.first; });
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].end()) return malformed("memory slots overlap");
  }
  return {};
}

KvmMachine::Slot slot_of(const Region& region, bool read_only) {
  return {region.id.id, GuestAddr{region.range.first.number * kPageSize}, region.range.bytes(),
          region.backing, read_only};
}

}  // namespace

GuestDescription::Property machine_property(const KvmVm& vm, std::uint32_t tsc_khz) {
  GuestDescription::Property property;
  property.info = {std::string(kMachineProperty), kMachineVersion, true};
  ByteWriter writer(property.body);
  writer.put((vm.irqchip ? kFlagIrqchip : 0U) | (vm.pit ? kFlagPit : 0U));
  writer.put(tsc_khz);
  // The slots' places stand in the description's regions.
  writer.put(static_cast<std::uint32_t>(vm.slots.size()));
  for (const KvmMemorySlot& slot : vm.slots) {
    writer.put(slot.slot);
    writer.put(slot.read_only ? kSlotReadOnly : 0U);
  }
  return property;
}

Result<const GuestDescription::Property*> find_property(const GuestDescription& description,
                                                        std::string_view name,
                                                        std::uint32_t version) {
  for (const GuestDescription::Property& property : description.properties) {
    if (property.info.name != name) continue;
    if (property.info.version == version) return &property;
    return make_error(ErrorCode::kVersionMismatch,
                      "the guest's property " + std::string(name) + " is of version " +
                          std::to_string(property.info.version) + ", and version " +
                          std::to_string(version) + " is known here")
        .advise("install the same version on both hosts");
  }
  return malformed("it has no property " + std::string(name));
}

Status check_built(const KvmMachine& machine, const KvmVm& vm) {
  const auto wrong = [](const std::string& what) {
    return make_error(ErrorCode::kInternal,
                      "the VMM has built another machine than asked: " + what);
  };
  if (vm.vm_fd < 0) return wrong("no VM");
  if (vm.vcpu_fds.size() != machine.vcpus) return wrong("number of vCPUs");
  if (vm.irqchip != machine.irqchip) return wrong("interrupt controllers");
  if (vm.pit != machine.pit) return wrong("PIT");
  if (vm.slots.size() != machine.slots.size()) return wrong("number of memory slots");
  for (const KvmMachine::Slot& asked : machine.slots) {
    const auto made =
        std::find_if(vm.slots.begin(), vm.slots.end(),
                     [&](const KvmMemorySlot& slot) { return slot.slot == asked.slot; });
    if (made == vm.slots.end() || made->guest_address != asked.guest_address ||
        made->bytes != asked.bytes || made->host == nullptr) {
      return wrong("memory slot " + std::to_string(asked.slot));
    }
  }
  return {};
}

}  // namespace migrate::kvm

namespace migrate {

Result<KvmMachine> kvm_machine(const GuestDescription& description) {
  using namespace kvm;
  if (description.kind != GuestKind::kVm) {
    return malformed("it is not a virtual machine's").advise("use the adapter for containers");
  }
  if (description.vcpus == 0 || description.vcpus > kVcpusMax) {
    return malformed("it has " + std::to_string(description.vcpus) + " vCPUs");
  }
  MIGRATE_TRY(check_regions(description.regions));
  MIGRATE_ASSIGN(const auto* property,
                 find_property(description, kMachineProperty, kMachineVersion));
  ByteReader reader(property->body);
  KvmMachine machine;
  machine.vcpus = description.vcpus;
  const auto flags = reader.get<std::uint32_t>();
  machine.irqchip = (flags & kFlagIrqchip) != 0;
  machine.pit = (flags & kFlagPit) != 0;
  machine.tsc_khz = reader.get<std::uint32_t>();
  const auto count = reader.get<std::uint32_t>();
  if ((flags & ~(kFlagIrqchip | kFlagPit)) != 0 || count != description.regions.size()) {
    return malformed("property kvm.machine does not fit the memory slots");
  }
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    const auto slot = reader.get<std::uint32_t>();
    const auto slot_flags = reader.get<std::uint32_t>();
    const auto region = std::find_if(description.regions.begin(), description.regions.end(),
                                     [&](const Region& r) { return r.id.id == slot; });
    const bool twice =
        std::any_of(machine.slots.begin(), machine.slots.end(),
                    [&](const KvmMachine::Slot& other) { return other.slot == slot; });
    if (region == description.regions.end() || twice || (slot_flags & ~kSlotReadOnly) != 0) {
      return malformed("property kvm.machine has a wrong slot " + std::to_string(slot));
    }
    machine.slots.push_back(slot_of(*region, (slot_flags & kSlotReadOnly) != 0));
  }
  MIGRATE_TRY(reader.finish("property kvm.machine"));
  return machine;
}

}  // namespace migrate
