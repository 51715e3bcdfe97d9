// Capture: what went over all connections of one session, in order; read by verify_stream.py.
// The container is described in an appendix of docs/wire-format.md; it is not part of the wire.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"
#include "wire/codec.hpp"

namespace migrate::wire::testing {

enum class Direction : std::uint8_t { kToTarget = 0, kToSource = 1 };

inline constexpr std::string_view kCaptureMagic = "MIGCAP1\n";
inline constexpr std::size_t kFrameHeaderBytes = 7;

/// Any thread. Keeps everything in memory.
class Capture {
 public:
  Capture() {
    const auto magic = std::as_bytes(std::span(kCaptureMagic));
    bytes_.assign(magic.begin(), magic.end());
  }

  /// Number for a further connection.
  std::uint16_t add_connection() {
    const std::scoped_lock lock(mutex_);
    return connections_++;
  }

  /// The first `size` bytes of `parts`.
  void add(std::uint16_t connection, Direction direction, std::span<const iovec> parts,
           std::size_t size) {
    if (size == 0) return;
    const std::scoped_lock lock(mutex_);
    const std::size_t at = bytes_.size();
    bytes_.resize(at + kFrameHeaderBytes);
    store_u16(bytes_.data() + at, connection);
    bytes_[at + 2] = static_cast<std::byte>(direction);
    store_u32(bytes_.data() + at + 3, static_cast<std::uint32_t>(size));
    for (const iovec& part : parts) {
      const std::size_t take = std::min(size, part.iov_len);
      const auto* from = static_cast<const std::byte*>(part.iov_base);
      bytes_.insert(bytes_.end(), from, from + take);
      size -= take;
    }
  }
  void add(std::uint16_t connection, Direction direction, std::span<const std::byte> bytes) {
    const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    add(connection, direction, {&part, 1}, bytes.size());
  }

  [[nodiscard]] std::vector<std::byte> bytes() const {
    const std::scoped_lock lock(mutex_);
    return bytes_;
  }
  [[nodiscard]] Status save(const std::string& path) const {
    const std::scoped_lock lock(mutex_);
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes_.data()),
               static_cast<std::streamsize>(bytes_.size()));
    file.close();
    if (!file) return make_error(ErrorCode::kIo, "cannot write " + path);
    return {};
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::byte> bytes_;
  std::uint16_t connections_ = 0;
};

struct CaptureFrame {
  std::uint16_t connection = 0;
  Direction direction = Direction::kToTarget;
  std::vector<std::byte> bytes;
};

inline Result<std::vector<CaptureFrame>> parse_capture(std::span<const std::byte> bytes) {
  const auto invalid = [] { return make_error(ErrorCode::kProtocol, "not a valid capture"); };
  const auto magic = std::as_bytes(std::span(kCaptureMagic));
  if (bytes.size() < magic.size() || std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
    return invalid();
  }
  bytes = bytes.subspan(magic.size());
  std::vector<CaptureFrame> frames;
  while (!bytes.empty()) {
    if (bytes.size() < kFrameHeaderBytes || bytes[2] > std::byte{1}) return invalid();
    CaptureFrame frame{load_u16(bytes.data()), static_cast<Direction>(bytes[2]), {}};
    const std::size_t size = load_u32(bytes.data() + 3);
    bytes = bytes.subspan(kFrameHeaderBytes);
    if (bytes.size() < size) return invalid();
    frame.bytes.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    bytes = bytes.subspan(size);
    frames.push_back(std::move(frame));
  }
  return frames;
}

}  // namespace migrate::wire::testing
