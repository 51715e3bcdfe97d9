// PowerPorts: how a guest switches its machine off and resets it, by ACPI's registers of machines
// without ACPI hardware.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>

#include "adapters/kvm/vmm/devices/io_device.hpp"

namespace migrate::vmm {

enum class PowerEvent : std::uint8_t { kOff = 1, kReset = 2 };

/// It keeps nothing, so there is nothing to move.
class PowerPorts final : public IoDevice {
 public:
  static constexpr std::uint64_t kPorts = 3;
  static constexpr std::uint16_t kSleepControl = 0;
  static constexpr std::uint16_t kSleepStatus = 1;
  static constexpr std::uint16_t kReset = 2;
  static constexpr std::uint8_t kSleepOff = 5;  ///< Sleep type of S5.
  static constexpr std::uint8_t kResetValue = 1;

  /// `happened` is called from vCPU threads.
  explicit PowerPorts(std::function<void(PowerEvent)> happened) : happened_(std::move(happened)) {}

  /// It never wakes from a sleep it has not begun.
  void read(std::uint64_t, std::span<std::byte> into) override {
    std::fill(into.begin(), into.end(), std::byte{0});
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    const auto value = std::to_integer<std::uint8_t>(from.front());
    // Sleep control (ACPI 6.5, section 4.8.3.7): bits 2 to 4 the type, bit 5 the order.
    constexpr std::uint8_t kEnable = 1 << 5;
    const bool off = (value & kEnable) != 0 && (value >> 2 & 7) == kSleepOff;
    if (offset == kSleepControl && off) happened_(PowerEvent::kOff);
    if (offset == kReset && value == kResetValue) happened_(PowerEvent::kReset);
  }

 private:
  const std::function<void(PowerEvent)> happened_;
};

}  // namespace migrate::vmm
