#include "adapters/kvm/vmm/linux/memory_map.hpp"

#include <algorithm>

#include "adapters/kvm/vmm/linux/boot_protocol.hpp"
#include "migrate/options.hpp"

namespace migrate::vmm {
namespace {

std::uint64_t round_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

Error too_little(const std::string& what, std::uint64_t memory) {
  return make_error(ErrorCode::kInvalidArgument,
                    what + " does not fit into the guest's " + format_size(memory) + " below 4 GiB")
      .advise("give the guest more memory (--memory)");
}

}  // namespace

std::vector<E820Entry> e820_map(std::span<const KvmMemorySlot> slots) {
  MIGRATE_CHECK(!slots.empty() && slots[0].guest_address.value == 0 &&
                slots[0].bytes > kHighRam.value);
  std::vector<E820Entry> map = {
      {0, kLowRamEnd, linux_boot::kE820Ram},
      {kFirmwareAddress.value, kFirmwareBytes, linux_boot::kE820Reserved},
      {kHighRam.value, slots[0].bytes - kHighRam.value, linux_boot::kE820Ram},
  };
  for (const KvmMemorySlot& slot : slots.subspan(1)) {
    map.push_back({slot.guest_address.value, slot.bytes, linux_boot::kE820Ram});
  }
  return map;
}

Result<LinuxPlan> plan_linux(const BzImage& image, std::uint64_t initrd_bytes,
                             std::span<const KvmMemorySlot> slots) {
  MIGRATE_CHECK(!slots.empty() && slots[0].guest_address.value == 0);
  const std::uint64_t end = slots[0].bytes;
  const auto fits = [&](std::uint64_t address) {
    return address >= kHighRam.value && address <= end && image.init_bytes <= end - address;
  };
  LinuxPlan plan;
  plan.kernel_address = image.preferred_address;
  if (plan.kernel_address % image.alignment != 0 || !fits(plan.kernel_address)) {
    plan.kernel_address = round_up(kHighRam.value, image.alignment);
  }
  if (!fits(plan.kernel_address)) return too_little("the kernel", end);
  if (initrd_bytes == 0) return plan;
  // As high as it may be, where the kernel does not unpack itself.
  const std::uint64_t limit = std::min(end, image.initrd_last_byte + 1);
  const std::uint64_t room = round_up(initrd_bytes, kPageSize);
  if (initrd_bytes > limit || room > limit ||
      limit - room < plan.kernel_address + image.init_bytes) {
    return too_little("the initrd beside the kernel", end);
  }
  plan.initrd_bytes = initrd_bytes;
  plan.initrd_address = (limit - room) / kPageSize * kPageSize;
  if (plan.initrd_address < plan.kernel_address + image.init_bytes) {
    return too_little("the initrd beside the kernel", end);
  }
  return plan;
}

}  // namespace migrate::vmm
