// Bus: which device answers at which address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "adapters/kvm/vmm/devices/io_device.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// One address space: the guest's ports, or its memory where there is no RAM. Filled before the
/// guest runs; read() and write() then from any thread.
class Bus {
 public:
  /// `kind` for messages: "port", "address".
  explicit Bus(std::string kind) : kind_(std::move(kind)) {}

  /// `device` must outlive the bus. kInvalidArgument for a range that is empty, goes past the end
  /// of all addresses or overlaps another.
  Status add(std::uint64_t first, std::uint64_t bytes, IoDevice& device);

  /// Where no device is, and for an access that leaves a device's range, reads are all ones and
  /// writes are ignored, as on a PC. False then.
  bool read(std::uint64_t address, std::span<std::byte> into) const;
  bool write(std::uint64_t address, std::span<const std::byte> from) const;

 private:
  struct Range {
    std::uint64_t bytes = 0;
    IoDevice* device = nullptr;
  };
  struct Target {
    IoDevice* device = nullptr;
    std::uint64_t offset = 0;
  };
  [[nodiscard]] Target find(std::uint64_t address, std::size_t bytes) const;

  std::string kind_;
  std::map<std::uint64_t, Range> ranges_;  ///< By first address.
};

}  // namespace migrate::vmm
