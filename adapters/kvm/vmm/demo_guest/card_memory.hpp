// What the demo guest shares with a network card: two virtqueues (virtio 1.2, section 2.7) and
// their buffers. Freestanding: also compiled into the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/layout.hpp"

namespace migrate::vmm::demo {

/// Buffers of each direction. What comes in the 200 us between two looks of the guest fits, at over
/// 300,000 frames a second; beyond, the tap's own queue holds 500 or more. Few, because each may be
/// on a page that a migration sends again.
inline constexpr std::uint16_t kCardBuffers = 64;
inline constexpr std::uint64_t kCardBufferBytes = 2048;
/// Behind each buffer, where nobody may write.
inline constexpr std::uint64_t kCardGuardBytes = 64;
inline constexpr std::uint64_t kCardRoom = kCardBufferBytes - kCardGuardBytes;
/// Before each frame: a virtio_net_hdr of virtio 1.
inline constexpr std::uint64_t kCardHeaderBytes = 12;
inline constexpr std::uint64_t kFrameMax = kCardRoom - kCardHeaderBytes;
static_assert(kFrameMax >= 14 + 4 + 1500);

struct RingDescriptor {
  std::uint64_t address = 0;
  std::uint32_t bytes = 0;
  std::uint16_t flags = 0;
  std::uint16_t next = 0;
};

/// Parts are aligned by more than the standard asks for.
struct alignas(64) Ring {
  RingDescriptor descriptors[kCardBuffers];
  struct {
    std::uint16_t flags;
    std::uint16_t index;
    std::uint16_t entries[kCardBuffers];
    std::uint16_t used_event;
  } available;
  struct alignas(64) {
    std::uint16_t flags;
    std::uint16_t index;
    struct {
      std::uint32_t id;
      std::uint32_t bytes;
    } entries[kCardBuffers];
    std::uint16_t available_event;
  } used;
};

struct CardBuffer {
  std::uint8_t bytes[kCardRoom];
  std::uint64_t guard[kCardGuardBytes / 8];
};
static_assert(sizeof(CardBuffer) == kCardBufferBytes);

/// What a buffer held when it was sent, and holds until the next frame: nobody writes to it.
struct SentBuffer {
  std::uint64_t hash = 0;   ///< Of all of it.
  std::uint64_t bytes = 0;  ///< With the header; 0: never sent.
};

struct alignas(kPage) CardMemory {
  Ring receive;
  alignas(kPage) Ring send;
  alignas(kPage) SentBuffer sent[kCardBuffers];
  alignas(kPage) CardBuffer receive_buffers[kCardBuffers];
  CardBuffer send_buffers[kCardBuffers];
};

}  // namespace migrate::vmm::demo
