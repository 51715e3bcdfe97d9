// A responder's answers to IPv6 (RFC 8200, 4443, 4861, 768). Freestanding: also compiled into the
// guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/answer_parts.hpp"

namespace migrate::vmm::demo {

inline constexpr std::size_t kIpv6Bytes = 40;
inline constexpr std::size_t kIpv6AddressBytes = 16;
/// Neighbour discovery's packets have come over no router.
inline constexpr Byte kNeighbourHopLimit = 255;

/// A packet's next header, and whether it went to a group.
struct Ipv6Facts {
  Byte protocol = 0;
  Byte hop_limit = 0;
  bool to_own = false;  ///< Else it may be to a group, of which only solicitations are answered.
  bool from_nobody = false;
};

constexpr bool is_nobody(const Byte* address) {
  for (std::size_t i = 0; i < kIpv6AddressBytes; ++i) {
    if (address[i] != 0) return false;
  }
  return true;
}

/// False: broken. Of extension headers there are none in what is answered.
constexpr bool read_ipv6(const CardPlan& card, const Frame& frame, Packet& packet,
                         Ipv6Facts& facts) {
  const Byte* const ip = frame.bytes + kEthernetBytes;
  if (frame.count < kEthernetBytes + kIpv6Bytes || ip[0] >> 4 != 6) return false;
  const std::size_t count = get16(ip + 4);
  if (count > frame.count - kEthernetBytes - kIpv6Bytes) return false;
  packet = {ip + 8, ip + 24, ip + kIpv6Bytes, count};
  facts.protocol = ip[6];
  facts.hop_limit = ip[7];
  facts.from_nobody = is_nobody(packet.source);
  facts.to_own =
      same_bytes(frame.bytes, card.mac, kMacBytes) && is_own(card, 6, packet.destination);
  return packet.source[0] != 0xff && !is_own(card, 6, packet.source);
}

constexpr InternetChecksum ipv6_sum(const Byte* a, const Byte* b, Byte protocol,
                                    const Byte* payload, std::size_t bytes) {
  InternetChecksum sum;
  sum.add(a, kIpv6AddressBytes).add(b, kIpv6AddressBytes);
  sum.add_number(static_cast<std::uint32_t>(bytes)).add_number(protocol).add(payload, bytes);
  return sum;
}

constexpr std::size_t put_ipv6(Byte protocol, Byte hop_limit, const Byte* from, const Byte* to,
                               std::size_t bytes, Byte* out) {
  put_zeroes(out, kIpv6Bytes);
  out[0] = 0x60;
  put16(out + 4, static_cast<std::uint32_t>(bytes));
  out[6] = protocol;
  out[7] = hop_limit;
  put_bytes(out + 8, from, kIpv6AddressBytes);
  put_bytes(out + 24, to, kIpv6AddressBytes);
  return kEthernetBytes + kIpv6Bytes + bytes;
}

/// ff02::1:ffXX:XXXX, of the last bytes of `target` (RFC 4291, 2.7.1).
constexpr bool is_solicited_group(const Byte* group, const Byte* target) {
  constexpr Byte kPrefix[13] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
  return same_bytes(group, kPrefix, sizeof kPrefix) && same_bytes(group + 13, target + 13, 3);
}

/// The MAC address in a solicitation's options; `otherwise` without one, null when they are broken.
constexpr const Byte* source_mac(const Byte* options, std::size_t bytes, const Byte* otherwise) {
  constexpr Byte kSourceLinkAddress = 1;
  const Byte* mac = otherwise;
  for (std::size_t at = 0; at < bytes;) {
    if (bytes - at < 8) return nullptr;
    const std::size_t length = std::size_t{options[at + 1]} * 8;
    if (length == 0 || length > bytes - at) return nullptr;
    if (options[at] == kSourceLinkAddress) {
      if (length != 8 || is_group(options + at + 2)) return nullptr;
      mac = options + at + 2;
    }
    at += length;
  }
  return mac;
}

/// RFC 4861, 7.1.1 and 7.2.4. One that asks from no address looks whether the address is taken, and
/// hears it with all others.
constexpr Answer answer_solicitation(const CardPlan& card, const Frame& frame, const Packet& packet,
                                     const Ipv6Facts& facts, Byte* out) {
  constexpr std::size_t kSolicitationBytes = 24;
  constexpr std::size_t kAdvertisementBytes = 32;
  constexpr Byte kAdvertisement = 136;
  constexpr Byte kSolicited = 0x40;
  constexpr Byte kOverride = 0x20;
  constexpr Byte kTargetLinkAddress = 2;
  constexpr Byte kAllNodes[kIpv6AddressBytes] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  constexpr Byte kAllNodesMac[kMacBytes] = {0x33, 0x33, 0, 0, 0, 1};

  if (facts.hop_limit != kNeighbourHopLimit || packet.payload[1] != 0 ||
      packet.count < kSolicitationBytes) {
    return {AnswerKind::kMalformed};
  }
  const Byte* const target = packet.payload + 8;
  const Byte* const options = packet.payload + kSolicitationBytes;
  const Byte* const mac =
      source_mac(options, packet.count - kSolicitationBytes, frame.bytes + kMacBytes);
  if (mac == nullptr || target[0] == 0xff) return {AnswerKind::kMalformed};
  if (!is_own(card, 6, target)) return {AnswerKind::kIgnored};
  const bool to_group = is_solicited_group(packet.destination, target);
  if (!to_group && !facts.to_own) return {AnswerKind::kIgnored};
  if (facts.from_nobody && (!to_group || mac != frame.bytes + kMacBytes)) {
    return {AnswerKind::kMalformed};
  }
  const Byte* const to = facts.from_nobody ? kAllNodes : packet.source;
  put_ethernet(card, facts.from_nobody ? kAllNodesMac : mac, kTypeIpv6, out);
  Byte* const reply = out + kEthernetBytes + kIpv6Bytes;
  put_zeroes(reply, kAdvertisementBytes);
  reply[0] = kAdvertisement;
  reply[4] = facts.from_nobody ? kOverride : kSolicited | kOverride;
  put_bytes(reply + 8, target, kIpv6AddressBytes);
  reply[24] = kTargetLinkAddress;
  reply[25] = 1;
  put_bytes(reply + 26, card.mac, kMacBytes);
  put16(reply + 2, ipv6_sum(target, to, kProtocolIcmpv6, reply, kAdvertisementBytes).value());
  return {AnswerKind::kNdp, put_ipv6(kProtocolIcmpv6, kNeighbourHopLimit, target, to,
                                     kAdvertisementBytes, out + kEthernetBytes)};
}

constexpr Answer answer_icmpv6(const CardPlan& card, const Frame& frame, const Packet& packet,
                               const Ipv6Facts& facts, Byte* out) {
  constexpr Byte kEchoRequest = 128;
  constexpr Byte kEchoReply = 129;
  constexpr Byte kSolicitation = 135;
  if (packet.count < kIcmpBytes) return {AnswerKind::kMalformed};
  const auto sum =
      ipv6_sum(packet.source, packet.destination, kProtocolIcmpv6, packet.payload, packet.count);
  if (sum.value() != 0) return {AnswerKind::kMalformed};
  if (packet.payload[0] == kSolicitation) {
    return answer_solicitation(card, frame, packet, facts, out);
  }
  if (!facts.to_own || packet.payload[0] != kEchoRequest || packet.payload[1] != 0) {
    return {AnswerKind::kIgnored};
  }
  if (facts.from_nobody) return {AnswerKind::kMalformed};
  put_ethernet(card, frame.bytes + kMacBytes, kTypeIpv6, out);
  Byte* const icmp = out + kEthernetBytes + kIpv6Bytes;
  put_icmp_echo(kEchoReply, packet.payload, packet.count, icmp);
  put16(icmp + 2,
        ipv6_sum(packet.destination, packet.source, kProtocolIcmpv6, icmp, packet.count).value());
  return {AnswerKind::kIcmpv6, put_ipv6(kProtocolIcmpv6, kHopLimit, packet.destination,
                                        packet.source, packet.count, out + kEthernetBytes)};
}

constexpr Answer answer_udp_ipv6(const CardPlan& card, const Frame& frame, const Packet& packet,
                                 const Ipv6Facts& facts, Byte* out) {
  if (!facts.to_own) return {AnswerKind::kIgnored};
  const Answer judged = judge_udp(packet);
  if (judged.kind != AnswerKind::kUdp) return judged;
  // Here it must have a checksum.
  const auto sum =
      ipv6_sum(packet.source, packet.destination, kProtocolUdp, packet.payload, judged.bytes);
  if (facts.from_nobody || get16(packet.payload + 6) == 0 || sum.value() != 0) {
    return {AnswerKind::kMalformed};
  }
  put_ethernet(card, frame.bytes + kMacBytes, kTypeIpv6, out);
  Byte* const udp = out + kEthernetBytes + kIpv6Bytes;
  put_udp_echo(packet.payload, judged.bytes, udp);
  put16(udp + 6,
        udp_checksum(ipv6_sum(packet.destination, packet.source, kProtocolUdp, udp, judged.bytes)));
  return {AnswerKind::kUdp, put_ipv6(kProtocolUdp, kHopLimit, packet.destination, packet.source,
                                     judged.bytes, out + kEthernetBytes)};
}

constexpr Answer answer_ipv6(const CardPlan& card, const Frame& frame, Byte* out) {
  Packet packet;
  Ipv6Facts facts;
  if (!read_ipv6(card, frame, packet, facts)) return {AnswerKind::kMalformed};
  switch (facts.protocol) {
    case kProtocolIcmpv6:
      return answer_icmpv6(card, frame, packet, facts, out);
    case kProtocolUdp:
      return answer_udp_ipv6(card, frame, packet, facts, out);
    default:
      return {AnswerKind::kIgnored};
  }
}

}  // namespace migrate::vmm::demo
