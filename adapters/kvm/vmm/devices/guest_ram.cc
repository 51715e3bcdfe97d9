#include "adapters/kvm/vmm/devices/guest_ram.hpp"

namespace migrate::vmm {

std::optional<std::span<std::byte>> GuestRam::span(GuestAddr address, std::uint64_t bytes,
                                                   bool writable) const {
  for (const KvmMemorySlot& slot : slots_) {
    if (address < slot.guest_address) continue;
    const std::uint64_t offset = address.value - slot.guest_address.value;
    if (offset >= slot.bytes || bytes > slot.bytes - offset) continue;
    if (writable && slot.read_only) return std::nullopt;
    return std::span(slot.host + offset, static_cast<std::size_t>(bytes));
  }
  return std::nullopt;
}

bool GuestRam::read(GuestAddr address, std::span<std::byte> into) const {
  const auto memory = span(address, into.size(), false);
  if (!memory) return false;
  if (!into.empty()) std::memcpy(into.data(), memory->data(), into.size());
  // The compiler may not look at guest memory again in place of the copy.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return true;
}

bool GuestRam::write(GuestAddr address, std::span<const std::byte> from) const {
  const auto memory = span(address, from.size(), true);
  if (!memory) return false;
  if (!from.empty()) std::memcpy(memory->data(), from.data(), from.size());
  written(address, from.size());
  return true;
}

std::optional<std::uint16_t> GuestRam::load_u16(GuestAddr address, std::memory_order order) const {
  const auto memory = span(address, sizeof(std::uint16_t), false);
  if (!memory || address.value % sizeof(std::uint16_t) != 0) return std::nullopt;
  return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(memory->data())).load(order);
}

bool GuestRam::store_u16(GuestAddr address, std::uint16_t value, std::memory_order order) const {
  const auto memory = span(address, sizeof value, true);
  if (!memory || address.value % sizeof value != 0) return false;
  std::atomic_ref(*reinterpret_cast<std::uint16_t*>(memory->data())).store(value, order);
  written(address, sizeof value);
  return true;
}

}  // namespace migrate::vmm
