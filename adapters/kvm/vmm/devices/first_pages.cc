#include "adapters/kvm/vmm/devices/first_pages.hpp"

namespace migrate::vmm {

void FirstPages::add(GuestAddr address, std::uint64_t bytes) {
  for (const KvmMemorySlot& slot : slots_) {
    if (address < slot.guest_address || bytes == 0) continue;
    const std::uint64_t offset = address.value - slot.guest_address.value;
    if (offset >= slot.bytes || bytes > slot.bytes - offset) continue;
    const Region region = region_of(slot);
    const GuestPage last = GuestAddr{address.value + bytes - 1}.page();
    const PageRange range{address.page(), last - address.page() + 1};
    const PageBitmap::Segment* const known = pages_.find(region.id);
    if (known != nullptr && known->region.range.contains(range)) pages_.set(region.id, range);
    return;
  }
}

}  // namespace migrate::vmm
