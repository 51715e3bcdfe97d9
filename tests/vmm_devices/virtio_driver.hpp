// A guest's driver of a virtio-mmio device: the steps Linux takes, one register at a time.
#pragma once

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "adapters/kvm/vmm/devices/virtio_mmio.hpp"
#include "tests/vmm_devices/test_queue.hpp"

namespace migrate::vmm::test {

inline constexpr std::uint64_t kVersion1 = std::uint64_t{1} << 32;
inline constexpr std::uint64_t kIndirectFeature = std::uint64_t{1} << 28;
inline constexpr std::uint64_t kEventIndexFeature = std::uint64_t{1} << 29;

/// Waits for a condition, not for a time.
template <typename Condition>
[[nodiscard]] bool eventually(Condition condition) {
  const SteadyTime deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}
[[nodiscard]] inline SteadyTime soon() {
  return std::chrono::steady_clock::now() + std::chrono::seconds(60);
}

class VirtioDriver {
 public:
  explicit VirtioDriver(VirtioMmio& device) : device_(device) {}

  [[nodiscard]] std::uint64_t offered() {
    out32(device_, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    const std::uint64_t high = in32(device_, VIRTIO_MMIO_DEVICE_FEATURES);
    out32(device_, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    return high << 32 | in32(device_, VIRTIO_MMIO_DEVICE_FEATURES);
  }
  void reset() { out32(device_, VIRTIO_MMIO_STATUS, 0); }
  [[nodiscard]] std::uint32_t status() { return in32(device_, VIRTIO_MMIO_STATUS); }
  void add_status(std::uint32_t bits) { out32(device_, VIRTIO_MMIO_STATUS, status() | bits); }
  /// False when the device does not take them.
  bool agree(std::uint64_t features) {
    reset();
    add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
    add_status(VIRTIO_CONFIG_S_DRIVER);
    out32(device_, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    out32(device_, VIRTIO_MMIO_DRIVER_FEATURES, static_cast<std::uint32_t>(features >> 32));
    out32(device_, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    out32(device_, VIRTIO_MMIO_DRIVER_FEATURES, static_cast<std::uint32_t>(features));
    add_status(VIRTIO_CONFIG_S_FEATURES_OK);
    return (status() & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  }
  void set_up_queue(std::uint32_t index, const QueueLayout& layout) {
    out32(device_, VIRTIO_MMIO_QUEUE_SEL, index);
    out32(device_, VIRTIO_MMIO_QUEUE_NUM, layout.size);
    set_address(VIRTIO_MMIO_QUEUE_DESC_LOW, layout.descriptors);
    set_address(VIRTIO_MMIO_QUEUE_AVAIL_LOW, layout.available);
    set_address(VIRTIO_MMIO_QUEUE_USED_LOW, layout.used);
    out32(device_, VIRTIO_MMIO_QUEUE_READY, 1);
  }
  void go() { add_status(VIRTIO_CONFIG_S_DRIVER_OK); }
  void notify(std::uint32_t queue) { out32(device_, VIRTIO_MMIO_QUEUE_NOTIFY, queue); }
  [[nodiscard]] bool needs_reset() { return (status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }
  /// Takes the interrupts there are.
  std::uint32_t acknowledge() {
    const std::uint32_t interrupts = in32(device_, VIRTIO_MMIO_INTERRUPT_STATUS);
    out32(device_, VIRTIO_MMIO_INTERRUPT_ACK, interrupts);
    return interrupts;
  }

 private:
  void set_address(std::uint64_t low, GuestAddr address) {
    out32(device_, low, static_cast<std::uint32_t>(address.value));
    out32(device_, low + 4, static_cast<std::uint32_t>(address.value >> 32));
  }
  VirtioMmio& device_;
};

}  // namespace migrate::vmm::test
