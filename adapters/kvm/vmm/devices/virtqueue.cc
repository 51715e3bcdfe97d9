#include "adapters/kvm/vmm/devices/virtqueue.hpp"

// Leaves out functions that are not C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <string>

namespace migrate::vmm {
namespace {

// The rings begin with flags and index, u16 each; entries follow, then the other side's event.
constexpr std::uint64_t kRingHead = 4;
constexpr std::uint64_t kIndexOffset = 2;
constexpr std::uint64_t kEventBytes = 2;
constexpr std::uint64_t kAvailableEntry = 2;
constexpr std::uint64_t kUsedEntry = 8;
constexpr std::uint64_t kDescriptorBytes = 16;
constexpr std::uint32_t kIndirectBytesMax = kQueueSizeMax * kDescriptorBytes;

GuestAddr operator+(GuestAddr address, std::uint64_t bytes) { return {address.value + bytes}; }

Error hostile(const std::string& what) {
  return make_error(ErrorCode::kGuest, "the guest's driver broke a virtqueue: " + what);
}

/// For memory that check() has found to be there.
template <typename T>
T there(const std::optional<T>& value) {
  MIGRATE_CHECK(value.has_value());
  return *value;
}

Status check_part(const GuestRam& ram, std::string_view what, GuestAddr address,
                  std::uint64_t alignment, std::uint64_t bytes, bool writable) {
  if (address.value % alignment != 0) return hostile(std::string(what) + " is not aligned");
  if (!ram.contains(address, bytes, writable)) return hostile(std::string(what) + " is not memory");
  return {};
}

}  // namespace

/// As it lies in guest memory.
struct Virtqueue::Descriptor {
  std::uint64_t address = 0;
  std::uint32_t bytes = 0;
  std::uint16_t flags = 0;
  std::uint16_t next = 0;
};

Status Virtqueue::check(const GuestRam& ram, const QueueLayout& layout) {
  const std::uint64_t size = layout.size;
  if (!std::has_single_bit(layout.size) || size > kQueueSizeMax) {
    return hostile("its size is " + std::to_string(size));
  }
  MIGRATE_TRY(check_part(ram, "its descriptor table", layout.descriptors, VRING_DESC_ALIGN_SIZE,
                         size * kDescriptorBytes, false));
  MIGRATE_TRY(check_part(ram, "its available ring", layout.available, VRING_AVAIL_ALIGN_SIZE,
                         kRingHead + size * kAvailableEntry + kEventBytes, false));
  return check_part(ram, "its used ring", layout.used, VRING_USED_ALIGN_SIZE,
                    kRingHead + size * kUsedEntry + kEventBytes, true);
}

void Virtqueue::start(const QueueLayout& layout, const Features& features, std::uint16_t next) {
  layout_ = layout;
  features_ = features;
  next_ = used_ = next;
  told_known_ = false;
}

GuestAddr Virtqueue::used_event() const {
  return layout_.available + kRingHead + layout_.size * kAvailableEntry;
}
GuestAddr Virtqueue::available_event() const {
  return layout_.used + kRingHead + layout_.size * kUsedEntry;
}

Result<std::uint16_t> Virtqueue::count_waiting() const {
  const std::uint16_t index =
      there(ram_.load_u16(layout_.available + kIndexOffset, std::memory_order_acquire));
  const auto count = static_cast<std::uint16_t>(index - next_);
  if (count > layout_.size) {
    return hostile("it has " + std::to_string(count) + " requests in a ring of " +
                   std::to_string(layout_.size));
  }
  return count;
}

Result<bool> Virtqueue::waiting() const {
  MIGRATE_ASSIGN(const std::uint16_t count, count_waiting());
  return count != 0;
}

Result<bool> Virtqueue::take(Chain& chain) {
  MIGRATE_ASSIGN(const std::uint16_t count, count_waiting());
  if (count == 0) return false;
  const GuestAddr entry = layout_.available + kRingHead + next_ % layout_.size * kAvailableEntry;
  chain.head = there(ram_.load_u16(entry, std::memory_order_relaxed));
  chain.readable.clear();
  chain.writable.clear();
  chain.readable_bytes = chain.writable_bytes = 0;
  MIGRATE_TRY(walk({layout_.descriptors, layout_.size, false}, chain.head, chain));
  ++next_;
  return true;
}

/// Follows a chain through `table`, and from its end into an indirect one.
Status Virtqueue::walk(const Table& table, std::uint16_t first, Chain& chain) const {
  std::uint16_t index = first;
  for (std::uint32_t steps = 0; steps < table.entries; ++steps) {
    if (index >= table.entries) {
      return hostile("descriptor " + std::to_string(index) + " of a table of " +
                     std::to_string(table.entries));
    }
    const auto entry = there(ram_.read<Descriptor>(table.address + index * kDescriptorBytes));
    if ((entry.flags & VRING_DESC_F_INDIRECT) != 0) {
      MIGRATE_ASSIGN(const Table inner, indirect_table(table, entry));
      return walk(inner, 0, chain);
    }
    MIGRATE_TRY(add_part(entry, chain));
    if ((entry.flags & VRING_DESC_F_NEXT) == 0) return {};
    index = entry.next;
  }
  return hostile("its descriptors are a loop");
}

Result<Virtqueue::Table> Virtqueue::indirect_table(const Table& outer,
                                                   const Descriptor& entry) const {
  if (!features_.indirect) return hostile("an indirect table was not agreed on");
  if (outer.indirect) return hostile("an indirect table in an indirect table");
  if ((entry.flags & VRING_DESC_F_NEXT) != 0) return hostile("an indirect table goes on");
  const std::uint64_t entries = entry.bytes / kDescriptorBytes;
  if (entry.bytes % kDescriptorBytes != 0 || entries == 0 || entries > kQueueSizeMax) {
    return hostile("an indirect table of " + std::to_string(entry.bytes) + " bytes");
  }
  if (!ram_.contains(GuestAddr{entry.address}, entry.bytes, false)) {
    return hostile("an indirect table is not memory");
  }
  return Table{GuestAddr{entry.address}, static_cast<std::uint32_t>(entries), true};
}

Status Virtqueue::add_part(const Descriptor& entry, Chain& chain) const {
  const bool writable = (entry.flags & VRING_DESC_F_WRITE) != 0;
  if (!writable && !chain.writable.empty()) return hostile("a readable part after a writable one");
  if (chain.readable.size() + chain.writable.size() == kQueueSizeMax) {
    return hostile("a request of too many parts");
  }
  if (entry.bytes == 0) return hostile("a part of no bytes");
  if (!ram_.contains(GuestAddr{entry.address}, entry.bytes, writable)) {
    return hostile("a part is not memory");
  }
  // The used ring has 32 bits for the length of a whole request.
  const std::uint64_t total =
      std::uint64_t{chain.readable_bytes} + chain.writable_bytes + entry.bytes;
  if (total > std::numeric_limits<std::uint32_t>::max()) return hostile("a request of over 4 GiB");
  (writable ? chain.writable : chain.readable).push_back({GuestAddr{entry.address}, entry.bytes});
  (writable ? chain.writable_bytes : chain.readable_bytes) += entry.bytes;
  return {};
}

void Virtqueue::complete(const Chain& chain, std::uint32_t written) {
  for (const ChainPart& part : chain.writable) ram_.written(part.address, part.bytes);
  const std::uint32_t entry[2] = {chain.head, written};
  const GuestAddr place = layout_.used + kRingHead + used_ % layout_.size * kUsedEntry;
  MIGRATE_CHECK(ram_.write(place, std::as_bytes(std::span(entry))));
  ++used_;
  MIGRATE_CHECK(ram_.store_u16(layout_.used + kIndexOffset, used_, std::memory_order_release));
}

bool Virtqueue::wants_interrupt() {
  // The guest must not miss both the index and the interrupt.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const std::uint16_t before = std::exchange(told_, used_);
  const bool known = std::exchange(told_known_, true);
  if (!features_.event_index) {
    const std::uint16_t flags = there(ram_.load_u16(layout_.available, std::memory_order_relaxed));
    return (flags & VRING_AVAIL_F_NO_INTERRUPT) == 0;
  }
  const std::uint16_t event = there(ram_.load_u16(used_event(), std::memory_order_relaxed));
  return !known || vring_need_event(event, used_, before) != 0;
}

/// How many completed requests the driver may not have looked at yet. Only with event indices does
/// it say so; a guess else: what a device completes between two looks.
std::uint16_t Virtqueue::count_unseen() const {
  constexpr std::uint16_t kGuess = 16;
  if (!features_.event_index) return std::min(kGuess, layout_.size);
  const std::uint16_t event = there(ram_.load_u16(used_event(), std::memory_order_relaxed));
  return std::min(static_cast<std::uint16_t>(used_ - event), layout_.size);
}

/// A driver's mistakes are none of ours here: it is told of them when the chain is taken.
void Virtqueue::add_buffers(std::uint16_t head, FirstPages& pages, std::uint64_t& left) const {
  const auto first = ram_.read<Descriptor>(layout_.descriptors + head * kDescriptorBytes);
  if (head >= layout_.size || !first) return;
  if ((first->flags & VRING_DESC_F_INDIRECT) != 0) {
    pages.add(GuestAddr{first->address}, std::min(first->bytes, kIndirectBytesMax));
  }
  Chain chain;
  if (!walk({layout_.descriptors, layout_.size, false}, head, chain)) return;
  for (const auto* parts : {&chain.readable, &chain.writable}) {
    for (const ChainPart& part : *parts) {
      const std::uint64_t offset = part.address.value % kPageSize;
      if (left == 0) return;
      const std::uint64_t bytes = std::min<std::uint64_t>(part.bytes, left * kPageSize - offset);
      pages.add(part.address, bytes);
      left -= (offset + bytes + kPageSize - 1) / kPageSize;
    }
  }
}

void Virtqueue::add_first_pages(FirstPages& pages) const {
  if (!started()) return;
  const std::uint64_t size = layout_.size;
  pages.add(layout_.descriptors, size * kDescriptorBytes);
  pages.add(layout_.available, kRingHead + size * kAvailableEntry + kEventBytes);
  pages.add(layout_.used, kRingHead + size * kUsedEntry + kEventBytes);
  std::uint64_t left = kFirstBufferPages;
  const std::uint16_t unseen = count_unseen();
  for (std::uint16_t i = 0; i < unseen; ++i) {
    const std::uint64_t place = static_cast<std::uint16_t>(used_ - unseen + i) % size;
    const GuestAddr entry = layout_.used + kRingHead + place * kUsedEntry;
    const auto head = there(ram_.read<std::uint32_t>(entry));
    if (head < size) add_buffers(static_cast<std::uint16_t>(head), pages, left);
  }
  const Result<std::uint16_t> waiting = count_waiting();
  for (std::uint16_t i = 0; waiting && i < *waiting; ++i) {
    const std::uint64_t place = static_cast<std::uint16_t>(next_ + i) % size;
    const GuestAddr entry = layout_.available + kRingHead + place * kAvailableEntry;
    add_buffers(there(ram_.load_u16(entry, std::memory_order_relaxed)), pages, left);
  }
}

Result<bool> Virtqueue::await_notification() {
  if (features_.event_index) {
    MIGRATE_CHECK(ram_.store_u16(available_event(), next_, std::memory_order_relaxed));
    // What the guest added before it could see this has brought no notification.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  return waiting();
}

}  // namespace migrate::vmm
