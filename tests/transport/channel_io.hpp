// What the tests of channels share: whole transfers, and lanes made of each kind of socket.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "migrate/channel.hpp"

namespace migrate::test {

// Long enough never to pass in a test that works.
inline constexpr std::chrono::seconds kLong{30};
inline constexpr std::chrono::milliseconds kShort{5};

// Reasons to skip that scripts/test knows: not every kernel has them.
inline constexpr const char* kNoUring = "this kernel or sandbox has no io_uring";
inline constexpr const char* kNoVsockLoopback = "this kernel has no vsock loopback";

inline constexpr std::uint32_t kVsockCidLocal = 1;
inline constexpr std::uint32_t kVsockPortAny = 0xFFFFFFFF;

inline bool uring_works() {
  SocketOptions options;
  options.io = SocketIo::kUring;
  return make_channel_pair(options).has_value();
}

/// Can this machine talk to itself by vsock? Binding says so without a packet.
inline bool vsock_loops() { return make_vsock_acceptor(kVsockCidLocal, kVsockPortAny).has_value(); }

struct ChannelPair {
  std::unique_ptr<Channel> near;
  std::unique_ptr<Channel> far;
};

/// Bytes in which every stretch differs from every other.
inline std::vector<std::byte> random_bytes(std::size_t size, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

inline std::vector<iovec> one_part(std::span<const std::byte> bytes) {
  return {{const_cast<std::byte*>(bytes.data()), bytes.size()}};
}

/// `bytes` in parts of 0 to `most` bytes.
inline std::vector<iovec> odd_parts(std::span<const std::byte> bytes, std::size_t most,
                                    std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<iovec> parts;
  while (!bytes.empty()) {
    const std::size_t size = std::min<std::size_t>(random() % (most + 1), bytes.size());
    parts.push_back({const_cast<std::byte*>(bytes.data()), size});
    bytes = bytes.subspan(size);
  }
  return parts;
}

inline Status send_bytes(Channel& channel, std::span<const std::byte> bytes,
                         std::chrono::nanoseconds idle_max = kLong) {
  return channel.send(one_part(bytes), idle_max);
}

/// The parts that are left once `count` bytes of `parts` are filled.
inline std::vector<iovec> after(std::vector<iovec> parts, std::size_t count) {
  std::size_t first = 0;
  while (first < parts.size() && count >= parts[first].iov_len) count -= parts[first++].iov_len;
  parts.erase(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(first));
  if (!parts.empty()) {
    parts[0].iov_base = static_cast<std::byte*>(parts[0].iov_base) + count;
    parts[0].iov_len -= count;
  }
  return parts;
}

/// Fills `parts`; an error also where the peer closes early.
inline Status receive_all(Channel& channel, std::vector<iovec> parts,
                          std::chrono::nanoseconds idle_max = kLong) {
  for (parts = after(std::move(parts), 0); !parts.empty();) {
    MIGRATE_ASSIGN(const std::size_t count, channel.receive(parts, idle_max));
    if (count == 0) return make_error(ErrorCode::kLinkLost, "closed early");
    parts = after(std::move(parts), count);
  }
  return {};
}

/// Code of the error that ends the stream, after reading what comes before; none: it was closed.
inline std::optional<ErrorCode> read_to_end(Channel& channel) {
  std::vector<std::byte> buffer(1 << 16);
  while (true) {
    const auto count = channel.receive(one_part(buffer), kLong);
    if (!count) return count.error().code;
    if (*count == 0) return std::nullopt;
  }
}

/// `megabytes` of the same bytes: more than any socket buffer holds, for little memory.
inline std::vector<iovec> many_parts(std::size_t megabytes) {
  static const std::vector<std::byte> megabyte(1 << 20);
  return std::vector<iovec>(megabytes, one_part(megabyte)[0]);
}

}  // namespace migrate::test
