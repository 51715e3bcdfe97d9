// The driver's side of a virtqueue, as a guest's kernel would have it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "adapters/kvm/vmm/devices/virtqueue.hpp"
#include "tests/vmm_devices/device_fixture.hpp"

namespace migrate::vmm::test {

struct TestDescriptor {
  std::uint64_t address = 0;
  std::uint32_t bytes = 0;
  std::uint16_t flags = 0;
  std::uint16_t next = 0;
};
inline constexpr std::uint16_t kNext = 1;
inline constexpr std::uint16_t kWrite = 2;
inline constexpr std::uint16_t kIndirect = 4;

struct Used {
  std::uint32_t head = 0;
  std::uint32_t bytes = 0;
  friend bool operator==(const Used&, const Used&) = default;
};

/// Lies in the low slot, from `base` on: descriptors, a page for the available ring, one for the
/// used ring.
class TestQueue {
 public:
  TestQueue(TestRam& memory, std::uint16_t size, std::uint64_t base)
      : memory_(memory),
        layout_{size, GuestAddr{base}, GuestAddr{base + kPageSize},
                GuestAddr{base + 2 * kPageSize}} {}

  [[nodiscard]] const QueueLayout& layout() const { return layout_; }
  void descriptor(std::uint64_t index, const TestDescriptor& entry) {
    memory_.poke(layout_.descriptors.value + index * sizeof entry, entry);
  }
  /// Puts a chain's head into the ring and tells the device.
  void offer(std::uint16_t head) {
    put_entry(index_, head);
    set_index(++index_);
  }
  /// A chain of these parts at the descriptors from `first` on; offered.
  void offer(std::uint16_t first, std::vector<TestDescriptor> parts) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (i + 1 < parts.size()) {
        parts[i].flags |= kNext;
        parts[i].next = static_cast<std::uint16_t>(first + i + 1);
      }
      descriptor(first + i, parts[i]);
    }
    offer(first);
  }
  void put_entry(std::uint16_t place, std::uint16_t head) {
    memory_.poke(layout_.available.value + 4 + 2 * (place % layout_.size), head);
  }
  void set_index(std::uint16_t index) {
    std::atomic_ref(*host_u16(layout_.available.value + 2)).store(index);
  }
  void set_flags(std::uint16_t flags) { memory_.poke(layout_.available.value, flags); }
  void set_used_event(std::uint16_t event) {
    memory_.poke(layout_.available.value + 4 + 2 * layout_.size, event);
  }
  [[nodiscard]] std::uint16_t available_event() const {
    return memory_.peek<std::uint16_t>(layout_.used.value + 4 + 8 * layout_.size);
  }
  [[nodiscard]] std::uint16_t used_index() {
    return std::atomic_ref(*host_u16(layout_.used.value + 2)).load();
  }
  [[nodiscard]] Used used(std::uint16_t place) const {
    return memory_.peek<Used>(layout_.used.value + 4 + 8 * (place % layout_.size));
  }

 private:
  std::uint16_t* host_u16(std::uint64_t address) {
    return reinterpret_cast<std::uint16_t*>(
        memory_.ram().span(GuestAddr{address}, 2, true)->data());
  }
  TestRam& memory_;
  const QueueLayout layout_;
  std::uint16_t index_ = 0;
};

}  // namespace migrate::vmm::test
