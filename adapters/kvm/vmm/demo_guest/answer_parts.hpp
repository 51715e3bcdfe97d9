// What answers of both Internet protocols have in common. Freestanding: also compiled into the
// guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/frame.hpp"
#include "adapters/kvm/vmm/demo_guest/layout.hpp"

namespace migrate::vmm::demo {

enum class AnswerKind : std::uint32_t {
  kIgnored,    ///< For somebody else, or of a kind that is not answered.
  kMalformed,  ///< Broken: lengths, checksums, fields.
  kArp,
  kIcmp,
  kUdp,
  kNdp,
  kIcmpv6,
};

struct Answer {
  AnswerKind kind = AnswerKind::kIgnored;
  std::size_t bytes = 0;  ///< Of the frame to send; 0: none.
};

/// A frame as it came, with all its headers.
struct Frame {
  const Byte* bytes = nullptr;
  std::size_t count = 0;
};

/// The payload of an Internet packet that came in good order, for this guest.
struct Packet {
  const Byte* source = nullptr;       ///< Address.
  const Byte* destination = nullptr;  ///< Address.
  const Byte* payload = nullptr;
  std::size_t count = 0;
};

constexpr bool is_group(const Byte* mac) { return (mac[0] & 1) != 0; }

constexpr bool is_own(const CardPlan& card, Byte version, const Byte* address) {
  for (const CardAddress& own : card.addresses) {
    if (own.version == version && same_bytes(own.bytes, address, version == 4 ? 4 : 16))
      return true;
  }
  return false;
}

constexpr void put_ethernet(const CardPlan& card, const Byte* to, std::uint16_t type, Byte* out) {
  put_bytes(out, to, kMacBytes);
  put_bytes(out + kMacBytes, card.mac, kMacBytes);
  put16(out + 2 * kMacBytes, type);
}

/// An echo of UDP: the same payload with the ports exchanged, and no checksum yet.
constexpr void put_udp_echo(const Byte* request, std::size_t bytes, Byte* out) {
  put_bytes(out, request + 2, 2);
  put_bytes(out + 2, request, 2);
  put16(out + 4, static_cast<std::uint32_t>(bytes));
  put16(out + 6, 0);
  put_bytes(out + kUdpBytes, request + kUdpBytes, bytes - kUdpBytes);
}

/// Echo replies of ICMP, of either version: all but the checksum.
constexpr void put_icmp_echo(Byte type, const Byte* request, std::size_t bytes, Byte* out) {
  put_bytes(out, request, bytes);
  out[0] = type;
  put16(out + 2, 0);
}

/// kUdp where the datagram is one to echo, `bytes` its own length; its checksum is not looked at.
constexpr Answer judge_udp(const Packet& packet) {
  const Byte* const udp = packet.payload;
  if (packet.count < kUdpBytes) return {AnswerKind::kMalformed};
  const std::size_t bytes = get16(udp + 4);
  if (bytes < kUdpBytes || bytes > packet.count) return {AnswerKind::kMalformed};
  const std::uint16_t from = get16(udp);
  if (get16(udp + 2) != kEchoPort || from == 0 || from == kEchoPort) return {AnswerKind::kIgnored};
  return {AnswerKind::kUdp, bytes};
}

/// 0 would say that there is none.
constexpr std::uint16_t udp_checksum(const InternetChecksum& sum) {
  return sum.value() == 0 ? 0xffff : sum.value();
}

}  // namespace migrate::vmm::demo
