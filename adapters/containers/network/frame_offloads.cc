#include "adapters/containers/network/frame_offloads.hpp"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace migrate::containers {
namespace {

constexpr std::size_t kEthernet = ETH_HLEN;
constexpr std::size_t kIpv6Header = 40;
constexpr std::size_t kUdpHeader = 8;
constexpr std::uint8_t kFin = 0x01;
constexpr std::uint8_t kPush = 0x08;
constexpr std::uint8_t kCongestionReduced = 0x80;

std::uint8_t byte_at(std::span<const std::byte> bytes, std::size_t at) {
  return std::to_integer<std::uint8_t>(bytes[at]);
}
std::uint16_t word_at(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint16_t>(byte_at(bytes, at) << 8 | byte_at(bytes, at + 1));
}
void set_word(std::span<std::byte> bytes, std::size_t at, std::size_t value) {
  bytes[at] = static_cast<std::byte>(value >> 8);
  bytes[at + 1] = static_cast<std::byte>(value);
}

/// The Internet's sum of 16 bit words (RFC 1071), not folded.
std::uint64_t sum_of(std::span<const std::byte> bytes) {
  std::uint64_t sum = 0;
  std::size_t at = 0;
  for (; at + 1 < bytes.size(); at += 2) sum += word_at(bytes, at);
  if (at < bytes.size()) sum += static_cast<std::uint64_t>(byte_at(bytes, at)) << 8;
  return sum;
}
std::uint16_t checksum_of(std::uint64_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

/// Where the parts of a frame that is to be cut begin.
struct Layout {
  bool ipv6 = false;
  bool udp = false;
  std::size_t transport = 0;
  std::size_t payload = 0;
};

std::optional<Layout> lay_out(std::span<const std::byte> frame, std::uint8_t kind) {
  Layout layout;
  layout.udp = kind == FrameOffload::kUdp;
  if (frame.size() < kEthernet + kIpv6Header) return std::nullopt;
  const std::uint16_t protocol = word_at(frame, 12);
  layout.ipv6 = protocol == ETH_P_IPV6;
  if (!layout.ipv6 && protocol != ETH_P_IP) return std::nullopt;
  const std::uint8_t expected = layout.udp ? IPPROTO_UDP : IPPROTO_TCP;
  // The kernel does not leave cutting to others where IPv6 has further headers.
  const std::size_t at = kEthernet + (layout.ipv6 ? 6 : 9);
  if (byte_at(frame, at) != expected) return std::nullopt;
  layout.transport =
      kEthernet + (layout.ipv6 ? kIpv6Header : (byte_at(frame, kEthernet) & 15) * 4u);
  if (frame.size() < layout.transport + 20) return std::nullopt;
  layout.payload =
      layout.transport +
      (layout.udp ? kUdpHeader : (byte_at(frame, layout.transport + 12) >> 4) * std::size_t{4});
  if (layout.payload < layout.transport + kUdpHeader || frame.size() <= layout.payload) {
    return std::nullopt;
  }
  return layout;
}

/// Of TCP or UDP, over a frame whose lengths are right.
void fill_checksums(FrameBytes& frame, const Layout& layout) {
  const std::span<std::byte> all(frame);
  const std::size_t length = frame.size() - layout.transport;
  const std::size_t at = layout.transport + (layout.udp ? 6 : 16);
  set_word(all, at, 0);
  // The pseudo header: both addresses, the protocol, the length.
  std::uint64_t sum =
      layout.ipv6 ? sum_of(all.subspan(kEthernet + 8, 32)) : sum_of(all.subspan(kEthernet + 12, 8));
  sum += (layout.udp ? IPPROTO_UDP : IPPROTO_TCP) + length + sum_of(all.subspan(layout.transport));
  const std::uint16_t checksum = checksum_of(sum);
  set_word(all, at, layout.udp && checksum == 0 ? 0xffff : checksum);
  if (layout.ipv6) return;
  set_word(all, kEthernet + 10, 0);
  set_word(all, kEthernet + 10,
           checksum_of(sum_of(all.subspan(kEthernet, layout.transport - kEthernet))));
}

FrameBytes cut_out(std::span<const std::byte> frame, const Layout& layout, std::size_t offset,
                   std::size_t bytes, std::size_t number) {
  FrameBytes part(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(layout.payload));
  const std::span<const std::byte> data = frame.subspan(layout.payload + offset, bytes);
  part.insert(part.end(), data.begin(), data.end());
  const std::span<std::byte> all(part);
  if (layout.ipv6) {
    set_word(all, kEthernet + 4, part.size() - kEthernet - kIpv6Header);
  } else {
    set_word(all, kEthernet + 2, part.size() - kEthernet);
    set_word(all, kEthernet + 4, word_at(frame, kEthernet + 4) + number);
  }
  if (layout.udp) {
    set_word(all, layout.transport + 4, part.size() - layout.transport);
  } else {
    std::uint32_t sequence = 0;
    std::memcpy(&sequence, part.data() + layout.transport + 4, sizeof(sequence));
    sequence = htonl(ntohl(sequence) + static_cast<std::uint32_t>(offset));
    std::memcpy(part.data() + layout.transport + 4, &sequence, sizeof(sequence));
    std::uint8_t flags = byte_at(part, layout.transport + 13);
    const bool last = layout.payload + offset + bytes == frame.size();
    if (!last) flags &= static_cast<std::uint8_t>(~(kFin | kPush));
    if (offset != 0) flags &= static_cast<std::uint8_t>(~kCongestionReduced);
    part[layout.transport + 13] = static_cast<std::byte>(flags);
  }
  fill_checksums(part, layout);
  return part;
}

}  // namespace

std::optional<std::vector<FrameBytes>> finish_frame(const FrameOffload& left,
                                                    std::span<const std::byte> frame) {
  if (frame.size() < kEthernet) return std::nullopt;
  std::vector<FrameBytes> done;
  const auto kind = static_cast<std::uint8_t>(left.segments & ~FrameOffload::kCongestion);
  if (kind != 0) {
    const auto layout = lay_out(frame, kind);
    if (!layout || left.segment_bytes == 0) return std::nullopt;
    const std::size_t payload = frame.size() - layout->payload;
    for (std::size_t offset = 0, number = 0; offset < payload;
         offset += left.segment_bytes, ++number) {
      const std::size_t bytes = std::min<std::size_t>(left.segment_bytes, payload - offset);
      done.push_back(cut_out(frame, *layout, offset, bytes, number));
    }
    return done;
  }
  FrameBytes whole(frame.begin(), frame.end());
  if ((left.flags & FrameOffload::kNeedsChecksum) != 0) {
    const std::size_t at = std::size_t{left.checksum_start} + left.checksum_offset;
    if (left.checksum_start > whole.size() || at + 2 > whole.size()) return std::nullopt;
    // What stands there is the pseudo header's sum.
    const std::uint16_t checksum =
        checksum_of(sum_of(std::span<const std::byte>(whole).subspan(left.checksum_start)));
    // For UDP 0 means that there is none; for TCP both mean the same.
    set_word(whole, at, checksum == 0 ? 0xffff : checksum);
  }
  done.push_back(std::move(whole));
  return done;
}

void insert_vlan_tag(FrameBytes& frame, std::uint16_t protocol, std::uint16_t tag) {
  std::byte words[4];
  set_word(words, 0, protocol);
  set_word(words, 2, tag);
  frame.insert(frame.begin() + 12, words, words + sizeof(words));
}

}  // namespace migrate::containers
