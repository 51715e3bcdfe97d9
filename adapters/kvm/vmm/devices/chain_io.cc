#include "adapters/kvm/vmm/devices/chain_io.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace migrate::vmm {

std::vector<iovec> memory_of(const GuestRam& ram, std::span<const ChainPart> parts,
                             std::uint64_t offset, std::uint64_t bytes) {
  std::vector<iovec> memory;
  for (const ChainPart& part : parts) {
    if (bytes == 0) break;
    if (offset >= part.bytes) {
      offset -= part.bytes;
      continue;
    }
    const std::uint64_t count = std::min(bytes, part.bytes - offset);
    const auto piece = ram.span(GuestAddr{part.address.value + offset}, count, false);
    MIGRATE_CHECK(piece.has_value());
    memory.push_back({piece->data(), piece->size()});
    bytes -= count;
    offset = 0;
  }
  MIGRATE_CHECK(bytes == 0);
  return memory;
}

void copy_from(const GuestRam& ram, std::span<const ChainPart> parts, std::uint64_t offset,
               std::span<std::byte> into) {
  std::byte* to = into.data();
  for (const iovec& piece : memory_of(ram, parts, offset, into.size())) {
    std::memcpy(to, piece.iov_base, piece.iov_len);
    to += piece.iov_len;
  }
  // What was copied is what is judged, whatever the guest does to its memory now.
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

void copy_to(const GuestRam& ram, std::span<const ChainPart> parts, std::uint64_t offset,
             std::span<const std::byte> from) {
  const std::byte* source = from.data();
  for (const iovec& piece : memory_of(ram, parts, offset, from.size())) {
    std::memcpy(piece.iov_base, source, piece.iov_len);
    source += piece.iov_len;
  }
}

}  // namespace migrate::vmm
