// Little-endian numbers and texts in the VMM's sections, written and read with every length
// checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::vmm {

class SectionBytes {
 public:
  template <typename T>
  SectionBytes& number(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      bytes_.push_back(static_cast<std::byte>(static_cast<std::uint64_t>(value) >> (8 * i)));
    }
    return *this;
  }
  /// Its length as u32, then its bytes.
  SectionBytes& text(std::string_view text) {
    number(static_cast<std::uint32_t>(text.size()));
    for (const char character : text) bytes_.push_back(static_cast<std::byte>(character));
    return *this;
  }
  [[nodiscard]] std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads the bytes of a peer: anything wrong is kProtocol, with the offset.
class SectionCursor {
 public:
  SectionCursor(std::string section, std::span<const std::byte> bytes)
      : section_(std::move(section)), bytes_(bytes) {}

  template <typename T>
  Result<T> number() {
    if (bytes_.size() - offset_ < sizeof(T)) return bad("ends too early");
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      value |= std::to_integer<std::uint64_t>(bytes_[offset_ + i]) << (8 * i);
    }
    offset_ += sizeof(T);
    return static_cast<T>(value);
  }
  Result<std::string> text(std::size_t bytes_max) {
    MIGRATE_ASSIGN(const std::uint32_t size, number<std::uint32_t>());
    if (size > bytes_max || size > bytes_.size() - offset_) return bad("has a text too long");
    const auto part = bytes_.subspan(offset_, size);
    offset_ += size;
    return std::string(reinterpret_cast<const char*>(part.data()), part.size());
  }
  Status end() const {
    if (offset_ != bytes_.size()) return bad("goes on past its end");
    return {};
  }
  [[nodiscard]] Error bad(std::string_view why) const {
    return make_error(ErrorCode::kProtocol, "section " + section_ + " " + std::string(why) +
                                                " (at byte " + std::to_string(offset_) + ")")
        .advise("the peer is broken or of another version; use the same version on both hosts");
  }

 private:
  const std::string section_;
  const std::span<const std::byte> bytes_;
  std::size_t offset_ = 0;
};

}  // namespace migrate::vmm
