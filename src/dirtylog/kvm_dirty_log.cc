#include "dirtylog/kvm_dirty_log.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <string>

namespace migrate {
namespace {

std::string slot_text(const KvmMemorySlot& slot) {
  return "memory slot " + std::to_string(slot.slot);
}

Error has_ring(int error) {
  return make_errno_error(ErrorCode::kUnsupported, error,
                          "this VM has a dirty ring and therefore no dirty bitmap")
      .advise("use the ring's tracker, or make the VM without a ring");
}

}  // namespace

Status check_slots(std::span<const KvmMemorySlot> slots) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const KvmMemorySlot& slot = slots[i];
    if (slot.bytes == 0 || slot.bytes % kPageSize != 0 ||
        slot.guest_address.value % kPageSize != 0 || slot.host == nullptr) {
      return make_error(ErrorCode::kInvalidArgument,
                        slot_text(slot) + " is not made of whole, mapped pages");
    }
    for (const KvmMemorySlot& other : slots.first(i)) {
      if (other.slot == slot.slot) {
        return make_error(ErrorCode::kInvalidArgument, slot_text(slot) + " is given twice");
      }
    }
  }
  return {};
}

KvmDirtyLog::ManualProtect KvmDirtyLog::manual_protect() const {
  const int offered = ::ioctl(vm_fd_, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
  if (offered <= 0) return {};
  return {(offered & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) != 0,
          (offered & KVM_DIRTY_LOG_INITIALLY_SET) != 0};
}

Status KvmDirtyLog::enable_manual_protect(bool enabled, bool initially_set) {
  kvm_enable_cap request{};
  request.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
  if (enabled) request.args[0] |= KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
  if (enabled && initially_set) request.args[0] |= KVM_DIRTY_LOG_INITIALLY_SET;
  if (::ioctl(vm_fd_, KVM_ENABLE_CAP, &request) != 0) {
    return make_errno_error(ErrorCode::kUnsupported, errno,
                            "KVM refuses to change how its dirty log is re-armed");
  }
  return {};
}

Status KvmDirtyLog::check_has_bitmaps() const {
  // KVM looks for a ring before it looks at the slot; one that cannot exist leaves every log alone.
  kvm_dirty_log log{};
  log.slot = ~std::uint32_t{0};
  if (::ioctl(vm_fd_, KVM_GET_DIRTY_LOG, &log) != 0 && errno == ENXIO) return has_ring(ENXIO);
  return {};
}

Status KvmDirtyLog::set_logging(const KvmMemorySlot& slot, bool enabled) {
  kvm_userspace_memory_region region{};
  region.slot = slot.slot;
  region.flags =
      (enabled ? KVM_MEM_LOG_DIRTY_PAGES : 0U) | (slot.read_only ? KVM_MEM_READONLY : 0U);
  region.guest_phys_addr = slot.guest_address.value;
  region.memory_size = slot.bytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(slot.host);
  if (::ioctl(vm_fd_, KVM_SET_USER_MEMORY_REGION, &region) != 0) {
    return make_errno_error(ErrorCode::kIo, errno,
                            std::string("KVM refuses to ") + (enabled ? "start" : "stop") +
                                " the dirty log of " + slot_text(slot))
        .advise("check that the slot given to the tracker is the one the VM has");
  }
  return {};
}

Status KvmDirtyLog::get(const KvmMemorySlot& slot, std::span<std::uint64_t> words) {
  MIGRATE_CHECK(words.size() == (slot.bytes / kPageSize + 63) / 64);
  kvm_dirty_log log{};
  log.slot = slot.slot;
  log.dirty_bitmap = words.data();
  if (::ioctl(vm_fd_, KVM_GET_DIRTY_LOG, &log) != 0) {
    if (errno == ENXIO) return has_ring(ENXIO);
    return make_errno_error(ErrorCode::kIo, errno,
                            "cannot read the dirty log of " + slot_text(slot));
  }
  return {};
}

Status KvmDirtyLog::clear(const KvmMemorySlot& slot, std::uint64_t first, std::uint32_t count,
                          std::span<const std::uint64_t> words) {
  MIGRATE_CHECK(first % 64 == 0 && words.size() >= (std::size_t{count} + 63) / 64);
  kvm_clear_dirty_log log{};
  log.slot = slot.slot;
  log.first_page = first;
  log.num_pages = count;
  // The kernel only reads it; the struct shares its type with KVM_GET_DIRTY_LOG.
  log.dirty_bitmap = const_cast<std::uint64_t*>(words.data());
  if (::ioctl(vm_fd_, KVM_CLEAR_DIRTY_LOG, &log) != 0) {
    return make_errno_error(ErrorCode::kIo, errno,
                            "cannot re-arm pages " + std::to_string(first) + " to " +
                                std::to_string(first + count) + " of " + slot_text(slot));
  }
  return {};
}

}  // namespace migrate
