// ByteWriter and ByteReader: little blobs of known shape, such as the inside of a state section.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "migrate/result.hpp"

namespace migrate {

static_assert(std::endian::native == std::endian::little, "blobs are little-endian");

/// Appends to a vector.
class ByteWriter {
 public:
  explicit ByteWriter(std::vector<std::byte>& out) : out_(out) {}

  template <typename T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes(std::as_bytes(std::span<const T, 1>(&value, 1)));
  }
  void bytes(std::span<const std::byte> data) { out_.insert(out_.end(), data.begin(), data.end()); }

 private:
  std::vector<std::byte>& out_;
};

/// Reads a blob that may be anything. Reading past the end gives zeros and makes ok() false from
/// then on, so a run of fields is read first and checked once; a count that was read is checked
/// before it sizes anything.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> data) : data_(data) {}

  template <typename T>
  T get() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    const auto from = bytes(sizeof(T));
    if (!from.empty()) std::memcpy(&value, from.data(), sizeof(T));
    return value;
  }
  /// The next `count` bytes where they lie; empty when fewer are left.
  std::span<const std::byte> bytes(std::size_t count) {
    if (!ok_ || count > remaining()) {
      ok_ = false;
      return {};
    }
    const auto part = data_.subspan(offset_, count);
    offset_ += count;
    return part;
  }

  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] std::size_t offset() const { return offset_; }
  [[nodiscard]] std::size_t remaining() const { return data_.size() - offset_; }

  /// kProtocol, naming `what` and the byte, unless all was there.
  [[nodiscard]] Status check(const std::string& what) const {
    if (ok_) return {};
    return make_error(ErrorCode::kProtocol, what + " is cut short at byte " +
                                                std::to_string(offset_) + " of " +
                                                std::to_string(data_.size()));
  }
  /// The same, and nothing may be left over.
  [[nodiscard]] Status finish(const std::string& what) const {
    MIGRATE_TRY(check(what));
    if (remaining() == 0) return {};
    return make_error(ErrorCode::kProtocol, what + " goes on after its end at byte " +
                                                std::to_string(offset_) + " of " +
                                                std::to_string(data_.size()));
  }

 private:
  std::span<const std::byte> data_;
  std::size_t offset_ = 0;
  bool ok_ = true;
};

}  // namespace migrate
