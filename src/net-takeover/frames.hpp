// The Ethernet frames that tell a network where a guest is now. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "migrate/net_address.hpp"

namespace migrate::takeover {

/// Shorter ones are padded to this (IEEE 802.3: 64 bytes with the checksum, which the card adds).
inline constexpr std::size_t kFrameBytesMin = 60;
/// The largest payload behind the Ethernet header: IPv6 with a neighbour advertisement. What the
/// interface's MTU must at least be.
inline constexpr std::size_t kPayloadBytesMax = 72;

struct Frame {
  std::string_view kind;  ///< "arp-request", "arp-reply", "na" or "rarp".
  std::vector<std::byte> bytes;
};

/// "`ip` is at `mac`" to all, as a request for the own address (RFC 5227, an ARP Announcement):
/// what hosts take into a cache that has `ip` already.
[[nodiscard]] Frame arp_request(const MacAddress& mac, const IpAddress& v4,
                                std::optional<std::uint16_t> vlan);
/// The same as a reply (RFC 5944, section 4.6): for those that believe only these.
[[nodiscard]] Frame arp_reply(const MacAddress& mac, const IpAddress& v4,
                              std::optional<std::uint16_t> vlan);
/// The same for IPv6: an unsolicited neighbour advertisement with override (RFC 4861, 7.2.6), from
/// the address itself to all nodes of the link.
[[nodiscard]] Frame neighbour_advertisement(const MacAddress& mac, const IpAddress& v6,
                                            std::optional<std::uint16_t> vlan);
/// A reverse request (RFC 903), which names no IP address: switches learn where `mac` is.
[[nodiscard]] Frame reverse_request(const MacAddress& mac, std::optional<std::uint16_t> vlan);

/// All that is sent for a card, in this order: for each IPv4 address request and reply, for each
/// IPv6 address an advertisement; without addresses a reverse request.
[[nodiscard]] std::vector<Frame> frames_of(const MacAddress& mac, std::span<const IpAddress> ips,
                                           std::optional<std::uint16_t> vlan);

}  // namespace migrate::takeover
