// Writer and Reader: little-endian fields, and the only place that reads a length from the wire.
//
// Both have the same methods, so that one function describes a message for both directions. Both
// keep the first failure and do nothing after it; the caller looks at the end.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::wire {

static_assert(std::endian::native == std::endian::little,
              "the wire is little-endian and fields are copied as they are in memory");

inline void store_u16(std::byte* to, std::uint16_t value) { std::memcpy(to, &value, 2); }
inline void store_u32(std::byte* to, std::uint32_t value) { std::memcpy(to, &value, 4); }
inline void store_u64(std::byte* to, std::uint64_t value) { std::memcpy(to, &value, 8); }
[[nodiscard]] inline std::uint16_t load_u16(const std::byte* from) {
  std::uint16_t value = 0;
  std::memcpy(&value, from, 2);
  return value;
}
[[nodiscard]] inline std::uint32_t load_u32(const std::byte* from) {
  std::uint32_t value = 0;
  std::memcpy(&value, from, 4);
  return value;
}
[[nodiscard]] inline std::uint64_t load_u64(const std::byte* from) {
  std::uint64_t value = 0;
  std::memcpy(&value, from, 8);
  return value;
}

/// What a text may be. kName: plain text, refused otherwise. kMessage: made plain and clipped.
/// kSection: [a-z0-9._-], not empty.
enum class TextKind : std::uint8_t { kName, kMessage, kSection };

/// A variable-length field: what it is called in an error, and its bound.
struct Bound {
  std::string_view what;
  std::size_t max = 0;
};

/// Appends to a vector. Fails (kInvalidArgument) when a field is beyond its bound.
class Writer {
 public:
  static constexpr bool kReads = false;
  Writer(std::string_view record, std::vector<std::byte>& out) : record_(record), out_(out) {}

  void u8(std::uint8_t value) { put(&value, 1); }
  void u16(std::uint16_t value) { put(&value, 2); }
  void u32(std::uint32_t value) { put(&value, 4); }
  void u64(std::uint64_t value) { put(&value, 8); }
  void i32(std::int32_t value) { put(&value, 4); }
  void boolean(bool value, std::string_view) { u8(value ? 1 : 0); }
  template <std::size_t N>
  void fixed(const std::array<std::byte, N>& bytes) {
    put(bytes.data(), N);
  }
  /// An enumeration whose valid numbers are [first, last].
  template <typename E>
  void choice(E value, std::string_view what, E first, E last) {
    if (value < first || value > last) fail(std::string(what) + " is out of range");
    u8(static_cast<std::uint8_t>(value));
  }
  void text(std::string_view text, TextKind kind, Bound bound);
  void blob(std::span<const std::byte> bytes, Bound bound);
  /// u32 count, then each(element) for all; an element takes at least bytes_min bytes.
  template <typename T, typename Each>
  void list(const std::vector<T>& elements, std::size_t /*bytes_min*/, Bound bound, Each each) {
    if (elements.size() > bound.max) return too_long(bound, elements.size());
    u32(static_cast<std::uint32_t>(elements.size()));
    for (const T& element : elements) each(element);
  }
  /// Refuses a value the writer was given.
  void require(bool condition, std::string_view what) {
    if (!condition) fail(std::string(what));
  }

  [[nodiscard]] Status finish() const;

 private:
  void put(const void* bytes, std::size_t size);
  void fail(std::string what);
  void too_long(const Bound& bound, std::size_t size);

  std::string_view record_;
  std::vector<std::byte>& out_;
  std::optional<Error> error_;
};

/// Reads a body. Fails (kProtocol, with the byte's offset in the record) on anything but what the
/// description says; after a failure every field reads as zero or empty.
class Reader {
 public:
  static constexpr bool kReads = true;
  /// `offset`: of bytes[0] in its record, for errors.
  Reader(std::string_view record, std::span<const std::byte> bytes, std::size_t offset)
      : record_(record), bytes_(bytes), offset_(offset) {}

  void u8(std::uint8_t& value) { take(&value, 1); }
  void u16(std::uint16_t& value) { take(&value, 2); }
  void u32(std::uint32_t& value) { take(&value, 4); }
  void u64(std::uint64_t& value) { take(&value, 8); }
  void i32(std::int32_t& value) { take(&value, 4); }
  void boolean(bool& value, std::string_view what);
  template <std::size_t N>
  void fixed(std::array<std::byte, N>& bytes) {
    take(bytes.data(), N);
  }
  template <typename E>
  void choice(E& value, std::string_view what, E first, E last) {
    std::uint8_t number = 0;
    u8(number);
    if (!error_ &&
        (number < static_cast<unsigned>(first) || number > static_cast<unsigned>(last))) {
      return fail_at(at_ - 1, std::string(what) + " " + std::to_string(number) + " is not known");
    }
    value = static_cast<E>(number);
  }
  void text(std::string& text, TextKind kind, Bound bound);
  void blob(std::vector<std::byte>& bytes, Bound bound);
  template <typename T, typename Each>
  void list(std::vector<T>& elements, std::size_t bytes_min, Bound bound, Each each) {
    // A count is believed only as far as the bytes that are there could hold it.
    const std::size_t count = length(bound, bytes_min);
    elements.clear();
    elements.reserve(count);
    for (std::size_t i = 0; i < count && !error_; ++i) each(elements.emplace_back());
  }
  /// Refuses what was read just before.
  void require(bool condition, std::string_view what) {
    if (!condition) fail_at(last_, std::string(what));
  }

  /// The first failure, or that bytes are left over.
  [[nodiscard]] Status finish();

 private:
  void take(void* to, std::size_t size);
  /// A u32 length or count, at most bound.max and no more than what is left can hold.
  [[nodiscard]] std::size_t length(const Bound& bound, std::size_t element_bytes_min);
  void fail_at(std::size_t at, std::string what);

  std::string_view record_;
  std::span<const std::byte> bytes_;
  std::size_t offset_;
  std::size_t at_ = 0;    ///< Next byte.
  std::size_t last_ = 0;  ///< First byte of the field read last.
  std::optional<Error> error_;
};

}  // namespace migrate::wire
