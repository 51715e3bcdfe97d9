// What a responder answers to a frame: ARP, ICMP echo, UDP echo, IPv6 neighbour solicitation and
// ICMPv6 echo. A pure function of the frame, which may be anything. Freestanding: also compiled
// into the guest.
#pragma once

#include "adapters/kvm/vmm/demo_guest/answer_ipv4.hpp"
#include "adapters/kvm/vmm/demo_guest/answer_ipv6.hpp"

namespace migrate::vmm::demo {

/// RFC 826.
inline Answer answer_arp(const CardPlan& card, const Frame& frame, Byte* out) {
  constexpr std::size_t kArpBytes = 28;
  constexpr Byte kEthernetAndIpv4[6] = {0, 1, 0x08, 0x00, 6, 4};
  constexpr std::uint16_t kRequest = 1;
  const Byte* const arp = frame.bytes + kEthernetBytes;
  if (frame.count < kEthernetBytes + kArpBytes) return {AnswerKind::kMalformed};
  if (!same_bytes(arp, kEthernetAndIpv4, sizeof kEthernetAndIpv4)) return {AnswerKind::kMalformed};
  if (get16(arp + 6) != kRequest) return {AnswerKind::kIgnored};
  const Byte* const sender = arp + 8;
  const Byte* const target = arp + 24;
  if (is_group(sender)) return {AnswerKind::kMalformed};
  if (!is_own(card, 4, target) || is_own(card, 4, sender + kMacBytes)) {
    return {AnswerKind::kIgnored};
  }
  put_ethernet(card, sender, kTypeArp, out);
  Byte* const reply = out + kEthernetBytes;
  put_bytes(reply, kEthernetAndIpv4, sizeof kEthernetAndIpv4);
  put16(reply + 6, 2);
  put_bytes(reply + 8, card.mac, kMacBytes);
  put_bytes(reply + 14, target, 4);
  put_bytes(reply + 18, sender, kMacBytes + 4);  // Its MAC and its IP address.
  return {AnswerKind::kArp, kEthernetBytes + kArpBytes};
}

/// `out` has room for kFrameMax, and so has the answer, as `count` is no more.
inline Answer answer_frame(const CardPlan& card, const Byte* bytes, std::size_t count, Byte* out) {
  if (count < kEthernetBytes || is_group(bytes + kMacBytes)) return {AnswerKind::kMalformed};
  // The guest's own, or what announces it when it has moved: a bridge brings it back.
  if (same_bytes(bytes + kMacBytes, card.mac, kMacBytes)) return {AnswerKind::kIgnored};
  const Frame frame{bytes, count};
  switch (get16(bytes + 2 * kMacBytes)) {
    case kTypeArp:
      return answer_arp(card, frame, out);
    case kTypeIpv4:
      return answer_ipv4(card, frame, out);
    case kTypeIpv6:
      return answer_ipv6(card, frame, out);
    default:
      return {AnswerKind::kIgnored};
  }
}

}  // namespace migrate::vmm::demo
