// Reading and writing of frames, byte by byte: nothing in them is aligned. Freestanding: also
// compiled into the guest.
#pragma once

#include <cstddef>
#include <cstdint>

namespace migrate::vmm::demo {

using Byte = std::uint8_t;

constexpr std::uint16_t get16(const Byte* at) {
  return static_cast<std::uint16_t>(at[0] << 8 | at[1]);
}
constexpr void put16(Byte* at, std::uint32_t value) {
  at[0] = static_cast<Byte>(value >> 8);
  at[1] = static_cast<Byte>(value);
}
constexpr void put_bytes(Byte* to, const Byte* from, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) to[i] = from[i];
}
constexpr void put_zeroes(Byte* to, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) to[i] = 0;
}
constexpr bool same_bytes(const Byte* a, const Byte* b, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) {
    if (a[i] != b[i]) return false;
  }
  return true;
}

/// The Internet checksum (RFC 1071), of parts one after the other; each but the last has an even
/// number of bytes.
class InternetChecksum {
 public:
  constexpr InternetChecksum& add(const Byte* bytes, std::size_t count) {
    for (std::size_t i = 0; i + 1 < count; i += 2) sum_ += get16(bytes + i);
    if (count % 2 != 0) sum_ += static_cast<std::uint32_t>(bytes[count - 1]) << 8;
    return *this;
  }
  constexpr InternetChecksum& add_number(std::uint32_t number) {
    sum_ += (number >> 16) + (number & 0xffff);
    return *this;
  }
  /// What to put where there were zeroes; 0 over what has its checksum in it.
  [[nodiscard]] constexpr std::uint16_t value() const {
    std::uint64_t sum = sum_;
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
  }

 private:
  std::uint64_t sum_ = 0;
};

inline constexpr std::size_t kMacBytes = 6;
inline constexpr std::size_t kEthernetBytes = 14;
inline constexpr std::uint16_t kTypeIpv4 = 0x0800;
inline constexpr std::uint16_t kTypeArp = 0x0806;
inline constexpr std::uint16_t kTypeIpv6 = 0x86dd;
inline constexpr Byte kProtocolIcmp = 1;
inline constexpr Byte kProtocolUdp = 17;
inline constexpr Byte kProtocolIcmpv6 = 58;
inline constexpr std::size_t kIcmpBytes = 8;
inline constexpr std::size_t kUdpBytes = 8;
/// RFC 862. An echo to this port would be echoed again, and so on for ever.
inline constexpr std::uint16_t kEchoPort = 7;
inline constexpr Byte kHopLimit = 64;

}  // namespace migrate::vmm::demo
