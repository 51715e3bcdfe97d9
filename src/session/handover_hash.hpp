// A hash of a handover machine's fields, for sets of explored states.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "session/handover.hpp"

namespace migrate::session {

/// FNV-1a over words, for exploration.
class HandoverHash {
 public:
  template <typename T>
  void add(const T& value) {
    if constexpr (std::is_same_v<T, nanoseconds>) {
      mix(static_cast<std::uint64_t>(value.count()));
    } else if constexpr (std::is_same_v<T, BootId>) {
      for (const std::byte byte : value.bytes) mix(std::to_integer<std::uint64_t>(byte));
    } else {
      mix(static_cast<std::uint64_t>(value));
    }
  }
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  void mix(std::uint64_t word) { value_ = (value_ ^ word) * 0x100000001b3ull; }
  std::uint64_t value_ = 0xcbf29ce484222325ull;
};

}  // namespace migrate::session
