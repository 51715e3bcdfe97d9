// A virtqueue whose guest is hostile: its rings, descriptors and tables are what the fuzzer makes
// up, and requests may lie on top of the rings. Whatever is taken must lie in guest memory, be as
// long as it says, and the queue must come to an end.
//
//   features u8, size as a power of two u8, next entry u16, memory from address 0 on
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "adapters/kvm/vmm/devices/chain_io.hpp"
#include "adapters/kvm/vmm/devices/virtqueue.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint64_t kSlotBytes = 4 * kPageSize;
constexpr std::uint64_t kHighSlot = 16 * kPageSize;
constexpr std::size_t kHeadBytes = 4;
// A guest that changes what it has offered while it is served can go on for ever.
constexpr int kRequestsMax = 64;

void require(bool holds) {
  if (!holds) std::abort();
}

/// Two slots in heap blocks of their own, so that a sanitizer sees what leaves them.
struct Memory {
  Memory() {
    for (std::uint32_t i = 0; i < 2; ++i) {
      blocks.push_back(std::make_unique<std::byte[]>(kSlotBytes));
      KvmMemorySlot slot;
      slot.slot = i;
      slot.guest_address = GuestAddr{i * kHighSlot};
      slot.bytes = kSlotBytes;
      slot.host = blocks.back().get();
      slots.push_back(slot);
    }
  }
  std::vector<std::unique_ptr<std::byte[]>> blocks;
  std::vector<KvmMemorySlot> slots;
};

QueueLayout layout_of(std::uint16_t size) {
  const std::uint64_t available = 16ull * size;
  const std::uint64_t used = (available + 6 + 2ull * size + 3) / 4 * 4;
  return {size, GuestAddr{0}, GuestAddr{available}, GuestAddr{used}};
}

std::uint64_t check_parts(std::span<const ChainPart> parts) {
  std::uint64_t bytes = 0;
  for (const ChainPart& part : parts) {
    const std::uint64_t base = part.address.value >= kHighSlot ? kHighSlot : 0;
    require(part.bytes > 0 && part.address.value - base < kSlotBytes &&
            part.bytes <= kSlotBytes - (part.address.value - base));
    bytes += part.bytes;
  }
  return bytes;
}

void serve(const GuestRam& ram, const Chain& chain) {
  require(chain.readable.size() + chain.writable.size() <= kQueueSizeMax);
  require(check_parts(chain.readable) == chain.readable_bytes);
  require(check_parts(chain.writable) == chain.writable_bytes);
  std::vector<std::byte> copy(chain.readable_bytes);
  copy_from(ram, chain.readable, 0, copy);
  copy.resize(chain.writable_bytes, std::byte{0x11});
  copy_to(ram, chain.writable, 0, copy);
}

void run(const GuestRam& ram, Virtqueue& queue) {
  Chain chain;
  for (int i = 0; i < kRequestsMax; ++i) {
    const std::uint16_t before = queue.next();
    const auto taken = queue.take(chain);
    if (!taken || !*taken) {
      require(queue.next() == before);
      return;
    }
    require(queue.next() == static_cast<std::uint16_t>(before + 1));
    serve(ram, chain);
    queue.complete(chain, chain.writable_bytes);
    (void)queue.wants_interrupt();
    if (const auto more = queue.await_notification(); !more) return;
  }
}

}  // namespace
}  // namespace migrate::vmm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace migrate;
  using namespace migrate::vmm;
  if (size < kHeadBytes) return 0;
  const auto input = fuzz::input(data, size);
  const Memory memory;
  const auto image = input.subspan(kHeadBytes);
  std::memcpy(memory.slots[0].host, image.data(), std::min<std::size_t>(image.size(), kSlotBytes));
  const GuestRam ram(memory.slots, nullptr);
  const QueueLayout layout = layout_of(static_cast<std::uint16_t>(1u << data[1] % 9));
  require(Virtqueue::check(ram, layout).has_value());
  Virtqueue queue(ram);
  const auto next = static_cast<std::uint16_t>(data[2] | data[3] << 8);
  queue.start(layout, {(data[0] & 1) != 0, (data[0] & 2) != 0}, next);
  run(ram, queue);
  return 0;
}
