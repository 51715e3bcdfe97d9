// Frames as a neighbour of a responder sends them, made without any of the guest's code.
#pragma once

#include <arpa/inet.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace migrate::vmm::test {

using Bytes = std::string;

inline const Bytes kGuestMac("\x52\x54\x00\x12\x34\x56", 6);
inline const Bytes kPeerMac("\x02\x00\x00\x00\x00\x99", 6);
inline const Bytes kBroadcastMac(6, '\xff');
inline constexpr const char* kGuestIp = "192.0.2.7";
inline constexpr const char* kPeerIp = "192.0.2.1";
inline constexpr const char* kGuestIp6 = "2001:db8::1:2345";
inline constexpr const char* kPeerIp6 = "2001:db8::99";
inline constexpr const char* kSolicitedGroup = "ff02::1:ff01:2345";
inline const Bytes kSolicitedMac("\x33\x33\xff\x01\x23\x45", 6);
inline constexpr std::uint16_t kPeerPort = 4000;

inline Bytes number16(unsigned value) {
  return {static_cast<char>(value >> 8), static_cast<char>(value)};
}
inline Bytes ip4(const char* text) {
  Bytes bytes(4, '\0');
  ::inet_pton(AF_INET, text, bytes.data());
  return bytes;
}
inline Bytes ip6(const char* text) {
  Bytes bytes(16, '\0');
  ::inet_pton(AF_INET6, text, bytes.data());
  return bytes;
}

/// RFC 1071.
inline Bytes checksum(Bytes bytes) {
  if (bytes.size() % 2 != 0) bytes += '\0';
  unsigned long sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    sum += static_cast<unsigned char>(bytes[i]) * 256ul + static_cast<unsigned char>(bytes[i + 1]);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return number16(static_cast<unsigned>(~sum & 0xffff));
}

inline Bytes ethernet(const Bytes& to, unsigned type, const Bytes& payload) {
  return to + kPeerMac + number16(type) + payload;
}

struct Arp {
  unsigned operation = 1;
  const char* target = kGuestIp;
  Bytes to = kBroadcastMac;
  Bytes kind = Bytes("\0\1\x08\0\6\4", 6);
};
inline Bytes arp(const Arp& of = {}) {
  return ethernet(
      of.to, 0x0806,
      of.kind + number16(of.operation) + kPeerMac + ip4(kPeerIp) + Bytes(6, '\0') + ip4(of.target));
}

struct Ipv4 {
  const char* from = kPeerIp;
  const char* to = kGuestIp;
  Bytes to_mac = kGuestMac;
  unsigned first = 0x45;  ///< Version and header length.
  Bytes options{};
  int total = -1;  ///< -1: as long as it is.
  unsigned fragment = 0;
  bool good_checksum = true;
};
inline Bytes ipv4(int protocol, const Bytes& payload, const Ipv4& of = {}) {
  const std::size_t total =
      of.total >= 0 ? static_cast<std::size_t>(of.total) : 20 + of.options.size() + payload.size();
  Bytes header = Bytes(1, static_cast<char>(of.first)) + '\0' +
                 number16(static_cast<unsigned>(total)) + number16(0x1234) + number16(of.fragment) +
                 '\x40' + static_cast<char>(protocol) + Bytes(2, '\0') + ip4(of.from) + ip4(of.to) +
                 of.options;
  Bytes sum = checksum(header);
  if (!of.good_checksum) sum[0] = static_cast<char>(sum[0] ^ 1);
  header.replace(10, 2, sum);
  return ethernet(of.to_mac, 0x0800, header + payload);
}

struct Ipv6 {
  const char* from = kPeerIp6;
  const char* to = kGuestIp6;
  Bytes to_mac = kGuestMac;
  int payload_bytes = -1;  ///< -1: as long as it is.
  unsigned hop_limit = 64;
  unsigned first = 0x60;
};
inline Bytes ipv6(int protocol, const Bytes& payload, const Ipv6& of = {}) {
  const auto bytes =
      of.payload_bytes >= 0 ? static_cast<std::size_t>(of.payload_bytes) : payload.size();
  return ethernet(of.to_mac, 0x86dd,
                  Bytes(1, static_cast<char>(of.first)) + Bytes(3, '\0') +
                      number16(static_cast<unsigned>(bytes)) + static_cast<char>(protocol) +
                      static_cast<char>(of.hop_limit) + ip6(of.from) + ip6(of.to) + payload);
}

inline Bytes pseudo4(const Ipv4& of, const Bytes& payload) {
  return ip4(of.from) + ip4(of.to) + Bytes("\0\x11", 2) +
         number16(static_cast<unsigned>(payload.size()));
}
inline Bytes pseudo6(const Ipv6& of, int protocol, const Bytes& payload) {
  return ip6(of.from) + ip6(of.to) + Bytes(2, '\0') +
         number16(static_cast<unsigned>(payload.size())) + Bytes(3, '\0') +
         static_cast<char>(protocol);
}

inline Bytes udp(const Bytes& payload, unsigned port = 7, unsigned from = kPeerPort) {
  return number16(from) + number16(port) + number16(static_cast<unsigned>(payload.size() + 8)) +
         Bytes(2, '\0') + payload;
}
/// With a checksum, which is never 0.
inline Bytes summed(Bytes datagram, const Bytes& pseudo_header) {
  const Bytes sum = checksum(pseudo_header + datagram);
  return datagram.replace(6, 2, sum == Bytes(2, '\0') ? Bytes(2, '\xff') : sum);
}
inline Bytes udp4(const Bytes& payload, const Ipv4& of = {}) {
  const Bytes datagram = udp(payload);
  return ipv4(17, summed(datagram, pseudo4(of, datagram)), of);
}
inline Bytes udp6(const Bytes& payload, const Ipv6& of = {}) {
  const Bytes datagram = udp(payload);
  return ipv6(17, summed(datagram, pseudo6(of, 17, datagram)), of);
}

inline Bytes icmp_message(int type, const Bytes& rest) {
  Bytes message = Bytes(1, static_cast<char>(type)) + Bytes(3, '\0') + rest;
  message.replace(2, 2, checksum(message));
  return message;
}
/// `rest`: what follows type, code and checksum.
inline Bytes icmp(int type, const Bytes& rest, const Ipv4& of = {}) {
  return ipv4(1, icmp_message(type, rest), of);
}
inline Bytes icmp6(int type, const Bytes& rest, const Ipv6& of = {}) {
  Bytes message = Bytes(1, static_cast<char>(type)) + Bytes(3, '\0') + rest;
  message.replace(2, 2, checksum(pseudo6(of, 58, message) + message));
  return ipv6(58, message, of);
}

inline Bytes source_option() { return Bytes("\1\1", 2) + kPeerMac; }
inline Ipv6 to_group() { return {kPeerIp6, kSolicitedGroup, kSolicitedMac, -1, 255, 0x60}; }
inline Bytes solicitation(const Ipv6& of = to_group(), const Bytes& options = source_option(),
                          const char* target = kGuestIp6) {
  return icmp6(135, Bytes(4, '\0') + ip6(target) + options, of);
}

/// Frames that are broken, by name. None may be answered, nor harm who reads it.
struct NamedFrame {
  const char* name;
  Bytes bytes;
};
inline std::vector<NamedFrame> broken_frames() {
  const auto with = [](Bytes frame, std::size_t at, const Bytes& bytes) {
    return frame.replace(at, bytes.size(), bytes);
  };
  const auto cut = [](const Bytes& frame, std::size_t bytes) { return frame.substr(0, bytes); };
  Ipv4 bad_sum;
  bad_sum.good_checksum = false;
  Ipv4 short_header;
  short_header.first = 0x44;
  Ipv4 long_header;
  long_header.first = 0x4f;
  Ipv4 other_version;
  other_version.first = 0x65;
  Ipv4 too_long;
  too_long.total = 1400;
  Ipv4 too_short;
  too_short.total = 19;
  Ipv4 from_itself;
  from_itself.from = kGuestIp;
  Ipv4 from_group;
  from_group.from = "224.0.0.1";
  Ipv4 from_all;
  from_all.from = "255.255.255.255";
  Ipv6 from_group6;
  from_group6.from = "ff02::1";
  Ipv6 too_long6;
  too_long6.payload_bytes = 1400;
  Ipv6 other_version6;
  other_version6.first = 0x40;
  Ipv6 routed = to_group();
  routed.hop_limit = 64;
  Ipv6 from_nobody = to_group();
  from_nobody.from = "::";
  const Bytes echo = Bytes("\0\1\0\1", 4) + "hello";
  return {
      {"an Ethernet header alone", ethernet(kGuestMac, 0x0800, "")},
      {"from a group", with(udp4("x"), 6, "\x01")},
      {"ARP, cut", cut(arp(), 41)},
      {"ARP of other lengths", arp({1, kGuestIp, kBroadcastMac, Bytes("\0\1\x08\0\6\x10", 6)})},
      {"ARP of another network", arp({1, kGuestIp, kBroadcastMac, Bytes("\0\2\x08\0\6\4", 6)})},
      {"IPv4, header cut", cut(udp4("x"), 14 + 19)},
      {"IPv4, another version", udp4("x", other_version)},
      {"IPv4, header too short", udp4("x", short_header)},
      {"IPv4, header longer than the packet", udp4("x", long_header)},
      {"IPv4, longer than its frame", udp4("x", too_long)},
      {"IPv4, shorter than its header", udp4("x", too_short)},
      {"IPv4, wrong checksum", udp4("x", bad_sum)},
      {"IPv4, from the guest itself", udp4("x", from_itself)},
      {"IPv4, from a group", udp4("x", from_group)},
      {"IPv4, from everybody", icmp(8, echo, from_all)},
      {"UDP, cut", ipv4(17, cut(udp("x"), 7))},
      {"UDP, shorter than its header", ipv4(17, with(udp("x"), 4, number16(7)))},
      {"UDP, longer than its packet", ipv4(17, with(udp("x"), 4, number16(65535)))},
      {"UDP, wrong checksum", ipv4(17, with(udp("x"), 6, number16(0x1234)))},
      {"ICMP, cut", ipv4(1, cut(icmp_message(8, echo), 7))},
      {"ICMP, wrong checksum", ipv4(1, with(icmp_message(8, echo), 2, number16(0x1234)))},
      {"IPv6, header cut", cut(udp6("x"), 14 + 39)},
      {"IPv6, another version", udp6("x", other_version6)},
      {"IPv6, longer than its frame", udp6("x", too_long6)},
      {"IPv6, from a group", udp6("x", from_group6)},
      {"UDP over IPv6 without a checksum", ipv6(17, udp("x"))},
      {"UDP over IPv6, wrong checksum", ipv6(17, with(udp("x"), 6, number16(0x1234)))},
      {"UDP over IPv6, cut", ipv6(17, cut(udp("x"), 7))},
      {"ICMPv6, cut", ipv6(58, Bytes("\x80\0\0\0\0\0\0", 7))},
      {"ICMPv6, wrong checksum", with(icmp6(128, echo), 14 + 40 + 2, number16(0x1234))},
      {"solicitation, cut", icmp6(135, Bytes(4, '\0') + Bytes(15, '\x20'), to_group())},
      {"solicitation over a router", solicitation(routed)},
      {"solicitation for a group", solicitation(to_group(), source_option(), "ff02::1")},
      {"solicitation, an option of no length",
       solicitation(to_group(), Bytes("\1\0", 2) + kPeerMac)},
      {"solicitation, an option too long", solicitation(to_group(), Bytes("\1\2", 2) + kPeerMac)},
      {"solicitation, an option cut", solicitation(to_group(), Bytes("\1\1\2", 3))},
      {"solicitation, from a group's MAC address",
       solicitation(to_group(), Bytes("\1\1", 2) + kBroadcastMac)},
      {"solicitation from nobody that names a sender", solicitation(from_nobody)},
  };
}

/// Frames in good order that are not answered either.
inline std::vector<NamedFrame> ignored_frames() {
  const auto with = [](Bytes frame, std::size_t at, const Bytes& bytes) {
    return frame.replace(at, bytes.size(), bytes);
  };
  Ipv4 first_fragment;
  first_fragment.fragment = 0x2000;
  Ipv4 later_fragment;
  later_fragment.fragment = 0x0010;
  Ipv4 to_other;
  to_other.to = "192.0.2.8";
  Ipv4 to_all;
  to_all.to_mac = kBroadcastMac;
  Ipv6 to_other6;
  to_other6.to = "2001:db8::98";
  const Bytes echo = Bytes("\0\1\0\1", 4) + "hello";
  return {
      {"of a protocol nobody speaks", ethernet(kGuestMac, 0x88b5, Bytes(46, 'p'))},
      {"the guest's own, come back", with(udp4("x"), 6, kGuestMac)},
      {"what announces the guest", with(arp(), 6, kGuestMac)},
      {"ARP from its own address", with(arp(), 14 + 14, ip4(kGuestIp))},
      {"an ARP reply", arp({2})},
      {"ARP for another", arp({1, "192.0.2.8"})},
      {"the first of two fragments", udp4("x", first_fragment)},
      {"a later fragment", udp4("x", later_fragment)},
      {"a fragment of 64 KiB", icmp(8, echo + Bytes(1400, 'f'), later_fragment)},
      {"for another's address", udp4("x", to_other)},
      {"to everybody", icmp(8, echo, to_all)},
      {"an echo's answer", icmp(0, echo)},
      {"UDP to another port", ipv4(17, udp("x", 8))},
      {"UDP from the echo port", ipv4(17, udp("x", 7, 7))},
      {"TCP", ipv4(6, Bytes(20, '\0'))},
      {"IPv6 for another", udp6("x", to_other6)},
      {"IPv6 with options first", ipv6(0, Bytes("\x11\0\1\4\0\0\0\0", 8) + udp("x"))},
      {"a solicitation for another", solicitation(to_group(), source_option(), "2001:db8::98")},
      {"a router's advertisement", icmp6(134, Bytes(12, '\0'), to_group())},
  };
}

}  // namespace migrate::vmm::test
