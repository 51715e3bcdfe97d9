// PanicPort: how a guest's kernel tells that it has panicked; QEMU's "pvpanic"
// (docs/specs/pvpanic).
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>

#include "adapters/kvm/vmm/devices/io_device.hpp"

namespace migrate::vmm {

enum class PanicEvent : std::uint8_t {
  kPanicked = 1,
  kCrashKernel = 2,  ///< It panicked, and a kernel of its own takes over to dump it.
};

/// It keeps nothing, so there is nothing to move.
class PanicPort final : public IoDevice {
 public:
  /// `happened` is called from vCPU threads.
  explicit PanicPort(std::function<void(PanicEvent)> happened) : happened_(std::move(happened)) {}

  /// Which events it takes.
  void read(std::uint64_t, std::span<std::byte> into) override {
    std::fill(into.begin(), into.end(), std::byte{0});
    into.front() = static_cast<std::byte>(kEvents);
  }
  void write(std::uint64_t, std::span<const std::byte> from) override {
    const unsigned events = std::to_integer<unsigned>(from.front()) & kEvents;
    for (const PanicEvent event : {PanicEvent::kPanicked, PanicEvent::kCrashKernel}) {
      if ((events & static_cast<unsigned>(event)) != 0) happened_(event);
    }
  }

 private:
  static constexpr unsigned kEvents = static_cast<unsigned>(PanicEvent::kPanicked) |
                                      static_cast<unsigned>(PanicEvent::kCrashKernel);
  const std::function<void(PanicEvent)> happened_;
};

}  // namespace migrate::vmm
