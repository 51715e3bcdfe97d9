// A responder's answers to IPv4 (RFC 791, 792, 768). Freestanding: also compiled into the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/answer_parts.hpp"

namespace migrate::vmm::demo {

inline constexpr std::size_t kIpv4Bytes = 20;

/// From the header that begins at `ip`: of a whole packet for this guest, of a sender that can be
/// answered. Options are passed over.
constexpr AnswerKind read_ipv4(const CardPlan& card, const Frame& frame, Packet& packet) {
  const Byte* const ip = frame.bytes + kEthernetBytes;
  if (frame.count < kEthernetBytes + kIpv4Bytes || ip[0] >> 4 != 4) return AnswerKind::kMalformed;
  const std::size_t header = std::size_t{ip[0] & 0xfu} * 4;
  const std::size_t total = get16(ip + 2);
  if (header < kIpv4Bytes || total < header || total > frame.count - kEthernetBytes) {
    return AnswerKind::kMalformed;
  }
  if (InternetChecksum().add(ip, header).value() != 0) return AnswerKind::kMalformed;
  packet = {ip + 12, ip + 16, ip + header, total - header};
  if (!same_bytes(frame.bytes, card.mac, kMacBytes) || !is_own(card, 4, packet.destination)) {
    return AnswerKind::kIgnored;
  }
  const Byte first = packet.source[0];
  if (first == 0 || first == 127 || first >= 224 || is_own(card, 4, packet.source)) {
    return AnswerKind::kMalformed;
  }
  // A fragment: more to come, or not the first.
  if ((get16(ip + 6) & 0x3fff) != 0) return AnswerKind::kIgnored;
  return ip[9] == kProtocolUdp
             ? AnswerKind::kUdp
             : (ip[9] == kProtocolIcmp ? AnswerKind::kIcmp : AnswerKind::kIgnored);
}

constexpr std::size_t put_ipv4(Byte protocol, const Packet& request, std::size_t bytes, Byte* out) {
  put_zeroes(out, kIpv4Bytes);
  out[0] = 0x45;
  put16(out + 2, static_cast<std::uint32_t>(kIpv4Bytes + bytes));
  put16(out + 6, 0x4000);  // Not to be fragmented, so it needs no number of its own (RFC 6864).
  out[8] = kHopLimit;
  out[9] = protocol;
  put_bytes(out + 12, request.destination, 4);
  put_bytes(out + 16, request.source, 4);
  put16(out + 10, InternetChecksum().add(out, kIpv4Bytes).value());
  return kEthernetBytes + kIpv4Bytes + bytes;
}

constexpr InternetChecksum udp_ipv4_sum(const Packet& packet, const Byte* udp, std::size_t bytes) {
  InternetChecksum sum;
  sum.add(packet.source, 4).add(packet.destination, 4).add_number(kProtocolUdp);
  sum.add_number(static_cast<std::uint32_t>(bytes)).add(udp, bytes);
  return sum;
}

constexpr Answer answer_udp_ipv4(const Packet& packet, Byte* out) {
  const Answer judged = judge_udp(packet);
  if (judged.kind != AnswerKind::kUdp) return judged;
  const bool summed = get16(packet.payload + 6) != 0;
  if (summed && udp_ipv4_sum(packet, packet.payload, judged.bytes).value() != 0) {
    return {AnswerKind::kMalformed};
  }
  Byte* const udp = out + kEthernetBytes + kIpv4Bytes;
  put_udp_echo(packet.payload, judged.bytes, udp);
  put16(udp + 6, udp_checksum(udp_ipv4_sum(packet, udp, judged.bytes)));
  return {AnswerKind::kUdp, put_ipv4(kProtocolUdp, packet, judged.bytes, out + kEthernetBytes)};
}

constexpr Answer answer_icmp(const Packet& packet, Byte* out) {
  constexpr Byte kEchoRequest = 8;
  constexpr Byte kEchoReply = 0;
  if (packet.count < kIcmpBytes) return {AnswerKind::kMalformed};
  if (InternetChecksum().add(packet.payload, packet.count).value() != 0) {
    return {AnswerKind::kMalformed};
  }
  if (packet.payload[0] != kEchoRequest || packet.payload[1] != 0) return {AnswerKind::kIgnored};
  Byte* const icmp = out + kEthernetBytes + kIpv4Bytes;
  put_icmp_echo(kEchoReply, packet.payload, packet.count, icmp);
  put16(icmp + 2, InternetChecksum().add(icmp, packet.count).value());
  return {AnswerKind::kIcmp, put_ipv4(kProtocolIcmp, packet, packet.count, out + kEthernetBytes)};
}

constexpr Answer answer_ipv4(const CardPlan& card, const Frame& frame, Byte* out) {
  Packet packet;
  const AnswerKind kind = read_ipv4(card, frame, packet);
  if (kind != AnswerKind::kUdp && kind != AnswerKind::kIcmp) return {kind};
  put_ethernet(card, frame.bytes + kMacBytes, kTypeIpv4, out);
  return kind == AnswerKind::kUdp ? answer_udp_ipv4(packet, out) : answer_icmp(packet, out);
}

}  // namespace migrate::vmm::demo
