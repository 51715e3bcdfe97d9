#include "net-takeover/frames.hpp"

#include <array>

namespace migrate::takeover {
namespace {

constexpr std::uint16_t kEtherArp = 0x0806;
constexpr std::uint16_t kEtherReverseArp = 0x8035;
constexpr std::uint16_t kEtherVlan = 0x8100;
constexpr std::uint16_t kEtherIpv6 = 0x86dd;
constexpr std::uint16_t kArpRequest = 1;
constexpr std::uint16_t kArpReply = 2;
constexpr std::uint16_t kReverseRequest = 3;
constexpr std::uint8_t kIcmpv6 = 58;
constexpr std::uint8_t kHopLimit = 255;  // Any other one is dropped: it has passed a router.
constexpr std::uint8_t kNeighbourAdvertisement = 136;
// S off: nobody asked. O on: caches are replaced. R off: whether the guest is a router only the
// guest knows (docs/network-takeover.md says what that means for one that is).
constexpr std::uint8_t kOverride = 0x20;
constexpr std::uint8_t kTargetLinkLayerAddress = 2;
constexpr std::uint8_t kOptionUnits = 1;  // In 8 bytes.
constexpr std::uint16_t kAdvertisementBytes = 4 + 4 + 16 + 8;

constexpr MacAddress kEverybody{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
constexpr MacAddress kAllNodesMac{{0x33, 0x33, 0, 0, 0, 1}};
constexpr MacAddress kNobody{};
constexpr std::array<std::uint8_t, 16> kAllNodes = {0xff, 0x02, 0, 0, 0, 0, 0, 0,
                                                    0,    0,    0, 0, 0, 0, 0, 1};
constexpr std::array<std::uint8_t, 4> kNoAddress{};

/// Appends numbers in network order.
class Writer {
 public:
  void u8(std::uint8_t value) { bytes_.push_back(static_cast<std::byte>(value)); }
  void u16(std::uint16_t value) {
    u8(static_cast<std::uint8_t>(value >> 8));
    u8(static_cast<std::uint8_t>(value));
  }
  void all(std::span<const std::uint8_t> values) {
    for (const std::uint8_t value : values) u8(value);
  }
  void ethernet(const MacAddress& to, const MacAddress& from, std::optional<std::uint16_t> vlan,
                std::uint16_t type) {
    all(to.bytes);
    all(from.bytes);
    if (vlan) {
      u16(kEtherVlan);
      u16(*vlan);  // Priority 0.
    }
    u16(type);
  }
  [[nodiscard]] std::size_t size() const { return bytes_.size(); }
  void put_u16(std::size_t at, std::uint16_t value) {
    bytes_[at] = static_cast<std::byte>(value >> 8);
    bytes_[at + 1] = static_cast<std::byte>(value & 0xff);
  }
  [[nodiscard]] std::span<const std::byte> from(std::size_t at) const {
    return std::span(bytes_).subspan(at);
  }
  std::vector<std::byte> padded() && {
    if (bytes_.size() < kFrameBytesMin) bytes_.resize(kFrameBytesMin);
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
};

/// One's complement sums (RFC 1071).
class Checksum {
 public:
  void add(std::span<const std::byte> even) {
    for (std::size_t i = 0; i + 1 < even.size(); i += 2) {
      sum_ += std::to_integer<std::uint32_t>(even[i]) << 8 |
              std::to_integer<std::uint32_t>(even[i + 1]);
    }
  }
  void add(std::uint32_t value) { sum_ += (value >> 16) + (value & 0xffff); }
  [[nodiscard]] std::uint16_t value() const {
    std::uint32_t sum = sum_;
    while (sum >> 16 != 0) sum = (sum >> 16) + (sum & 0xffff);
    return static_cast<std::uint16_t>(~sum);
  }

 private:
  std::uint32_t sum_ = 0;
};

/// ARP and RARP are laid out alike (RFC 826).
std::vector<std::byte> arp(std::uint16_t type, std::uint16_t operation, const MacAddress& mac,
                           std::span<const std::uint8_t> v4, const MacAddress& target,
                           std::optional<std::uint16_t> vlan) {
  Writer frame;
  frame.ethernet(kEverybody, mac, vlan, type);
  frame.u16(1);       // Ethernet
  frame.u16(0x0800);  // IPv4
  frame.u8(6);
  frame.u8(4);
  frame.u16(operation);
  frame.all(mac.bytes);
  frame.all(v4);
  frame.all(target.bytes);
  frame.all(v4);
  return std::move(frame).padded();
}

}  // namespace

Frame arp_request(const MacAddress& mac, const IpAddress& v4, std::optional<std::uint16_t> vlan) {
  MIGRATE_CHECK(!v4.is_v6());
  return {"arp-request", arp(kEtherArp, kArpRequest, mac, v4.octets(), kNobody, vlan)};
}

Frame arp_reply(const MacAddress& mac, const IpAddress& v4, std::optional<std::uint16_t> vlan) {
  MIGRATE_CHECK(!v4.is_v6());
  return {"arp-reply", arp(kEtherArp, kArpReply, mac, v4.octets(), mac, vlan)};
}

Frame reverse_request(const MacAddress& mac, std::optional<std::uint16_t> vlan) {
  return {"rarp", arp(kEtherReverseArp, kReverseRequest, mac, kNoAddress, mac, vlan)};
}

Frame neighbour_advertisement(const MacAddress& mac, const IpAddress& v6,
                              std::optional<std::uint16_t> vlan) {
  MIGRATE_CHECK(v6.is_v6());
  Writer frame;
  frame.ethernet(kAllNodesMac, mac, vlan, kEtherIpv6);
  frame.u16(0x6000);  // Version 6, no class, no flow.
  frame.u16(0);
  frame.u16(kAdvertisementBytes);
  frame.u8(kIcmpv6);
  frame.u8(kHopLimit);
  const std::size_t addresses = frame.size();
  frame.all(v6.octets());
  frame.all(kAllNodes);
  const std::size_t message = frame.size();
  frame.u8(kNeighbourAdvertisement);
  frame.u8(0);
  const std::size_t checksum_at = frame.size();
  frame.u16(0);
  frame.u8(kOverride);
  frame.u8(0);
  frame.u16(0);
  frame.all(v6.octets());
  frame.u8(kTargetLinkLayerAddress);
  frame.u8(kOptionUnits);
  frame.all(mac.bytes);
  Checksum checksum;
  checksum.add(frame.from(addresses).first(message - addresses));
  checksum.add(std::uint32_t{kAdvertisementBytes});
  checksum.add(std::uint32_t{kIcmpv6});
  checksum.add(frame.from(message));
  frame.put_u16(checksum_at, checksum.value());
  return {"na", std::move(frame).padded()};
}

std::vector<Frame> frames_of(const MacAddress& mac, std::span<const IpAddress> ips,
                             std::optional<std::uint16_t> vlan) {
  std::vector<Frame> frames;
  for (const IpAddress& ip : ips) {
    if (ip.is_v6()) {
      frames.push_back(neighbour_advertisement(mac, ip, vlan));
    } else {
      frames.push_back(arp_request(mac, ip, vlan));
      frames.push_back(arp_reply(mac, ip, vlan));
    }
  }
  if (frames.empty()) frames.push_back(reverse_request(mac, vlan));
  return frames;
}

}  // namespace migrate::takeover
