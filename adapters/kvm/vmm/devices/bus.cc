#include "adapters/kvm/vmm/devices/bus.hpp"

#include <algorithm>
#include <limits>

namespace migrate::vmm {

Status Bus::add(std::uint64_t first, std::uint64_t bytes, IoDevice& device) {
  const auto refuse = [&](const std::string& why) {
    return make_error(ErrorCode::kInvalidArgument,
                      "cannot put a device of " + std::to_string(bytes) + " bytes at " + kind_ +
                          " " + std::to_string(first) + ": " + why);
  };
  if (bytes == 0) return refuse("it has no registers");
  if (bytes - 1 > std::numeric_limits<std::uint64_t>::max() - first) {
    return refuse("it ends past the last address");
  }
  const auto after = ranges_.lower_bound(first);
  if (after != ranges_.end() && after->first - first < bytes) {
    return refuse("it overlaps the device at " + std::to_string(after->first));
  }
  if (after != ranges_.begin()) {
    const auto before = std::prev(after);
    if (first - before->first < before->second.bytes) {
      return refuse("it overlaps the device at " + std::to_string(before->first));
    }
  }
  ranges_.emplace(first, Range{bytes, &device});
  return {};
}

Bus::Target Bus::find(std::uint64_t address, std::size_t bytes) const {
  const auto after = ranges_.upper_bound(address);
  if (after == ranges_.begin()) return {};
  const auto& [first, range] = *std::prev(after);
  const std::uint64_t offset = address - first;
  if (offset >= range.bytes || bytes > range.bytes - offset) return {};
  return {range.device, offset};
}

bool Bus::read(std::uint64_t address, std::span<std::byte> into) const {
  const Target target = find(address, into.size());
  if (target.device == nullptr) {
    std::fill(into.begin(), into.end(), std::byte{0xff});
    return false;
  }
  target.device->read(target.offset, into);
  return true;
}

bool Bus::write(std::uint64_t address, std::span<const std::byte> from) const {
  const Target target = find(address, from.size());
  if (target.device == nullptr) return false;
  target.device->write(target.offset, from);
  return true;
}

}  // namespace migrate::vmm
