// Frames as they would be on a wire: what the kernel leaves to a network card is done here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace migrate::containers {

using FrameBytes = std::vector<std::byte>;

/// What the kernel has left to do: struct virtio_net_hdr of a packet socket (packet(7),
/// PACKET_VNET_HDR), whose header is none for C++.
struct FrameOffload {
  static constexpr std::uint8_t kNeedsChecksum = 1;
  static constexpr std::uint8_t kTcp4 = 1, kTcp6 = 4, kUdp = 5, kCongestion = 0x80;
  std::uint8_t flags = 0;
  std::uint8_t segments = 0;  ///< How to cut it; 0: not at all.
  std::uint16_t header_bytes = 0;
  std::uint16_t segment_bytes = 0;  ///< Of data.
  std::uint16_t checksum_start = 0;
  std::uint16_t checksum_offset = 0;
};
static_assert(sizeof(FrameOffload) == 10);

/// `frame`: from its Ethernet header on, without a VLAN's tag. Fills in a checksum, or cuts a large
/// TCP segment or UDP datagram into several. nullopt for what is no such frame.
[[nodiscard]] std::optional<std::vector<FrameBytes>> finish_frame(const FrameOffload& left,
                                                                  std::span<const std::byte> frame);

/// With an 802.1Q (or other) tag behind the addresses.
void insert_vlan_tag(FrameBytes& frame, std::uint16_t protocol, std::uint16_t tag);

}  // namespace migrate::containers
