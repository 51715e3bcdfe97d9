// The driver's side of a split virtqueue (virtio 1.2, section 2.7), by polling: the device is asked
// for no interrupts. Only for the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/card_memory.hpp"

namespace migrate::vmm::demo {

/// Buffer i has descriptor i for good; it is the device's from offer() until take().
class RingDriver {
 public:
  static constexpr std::uint16_t kDeviceWrites = 2;  ///< VRING_DESC_F_WRITE

  explicit RingDriver(Ring& ring) : ring_(ring) {
    ring_.available.flags = 1;  // VRING_AVAIL_F_NO_INTERRUPT
  }

  void describe(std::uint16_t buffer, const void* at, std::uint32_t bytes, std::uint16_t flags) {
    ring_.descriptors[buffer] = {reinterpret_cast<std::uint64_t>(at), bytes, flags, 0};
  }
  [[nodiscard]] bool describes(std::uint16_t buffer, const void* at, std::uint32_t bytes,
                               std::uint16_t flags) const {
    const RingDescriptor& is = ring_.descriptors[buffer];
    return is.address == reinterpret_cast<std::uint64_t>(at) && is.bytes == bytes &&
           is.flags == flags && is.next == 0;
  }

  void offer(std::uint16_t buffer) {
    ring_.available.entries[offered_ % kCardBuffers] = buffer;
    ++offered_;
    at_device_ |= bit(buffer);
  }
  /// Lets the device see what was offered. True: it wants to be notified.
  bool publish() {
    __atomic_store_n(&ring_.available.index, offered_, __ATOMIC_RELEASE);
    // The device looks at the index after it has taken back its wish not to be notified.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return (__atomic_load_n(&ring_.used.flags, __ATOMIC_RELAXED) & 1) == 0;
  }

  struct Taken {
    std::uint32_t buffer = 0;
    std::uint32_t bytes = 0;
    bool valid = false;  ///< It was the device's; now it is not.
  };
  /// A buffer that the device is done with; false when there is none.
  bool take(Taken& taken) {
    if (__atomic_load_n(&ring_.used.index, __ATOMIC_ACQUIRE) == taken_) return false;
    const auto& entry = ring_.used.entries[taken_ % kCardBuffers];
    taken.buffer = entry.id;
    taken.bytes = entry.bytes;
    taken.valid = taken.buffer < kCardBuffers && (at_device_ & bit(taken.buffer)) != 0;
    if (taken.valid) at_device_ &= ~bit(taken.buffer);
    ++taken_;
    return true;
  }

  /// A buffer that is not the device's; kCardBuffers when all are. The lowest, so that few pages
  /// are written again and again.
  [[nodiscard]] std::uint16_t spare() const {
    return at_device_ == ~std::uint64_t{0}
               ? kCardBuffers
               : static_cast<std::uint16_t>(__builtin_ctzll(~at_device_));
  }

 private:
  static constexpr std::uint64_t bit(std::uint32_t buffer) { return std::uint64_t{1} << buffer; }
  static_assert(kCardBuffers == 64);

  Ring& ring_;
  std::uint64_t at_device_ = 0;
  std::uint16_t offered_ = 0;
  std::uint16_t taken_ = 0;
};

}  // namespace migrate::vmm::demo
