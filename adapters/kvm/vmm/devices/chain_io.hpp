// The bytes of a request, wherever its parts lie in guest memory.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "adapters/kvm/vmm/devices/guest_ram.hpp"
#include "adapters/kvm/vmm/devices/virtqueue.hpp"

namespace migrate::vmm {

/// Where `bytes` bytes from `offset` on of `parts` lie in this process; they must be that long.
/// Who writes to them leaves marking to Virtqueue::complete().
[[nodiscard]] std::vector<iovec> memory_of(const GuestRam& ram, std::span<const ChainPart> parts,
                                           std::uint64_t offset, std::uint64_t bytes);

/// Copies out of the parts, which must be long enough.
void copy_from(const GuestRam& ram, std::span<const ChainPart> parts, std::uint64_t offset,
               std::span<std::byte> into);
/// Copies into them.
void copy_to(const GuestRam& ram, std::span<const ChainPart> parts, std::uint64_t offset,
             std::span<const std::byte> from);

}  // namespace migrate::vmm
