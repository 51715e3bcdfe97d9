// Hasher: XXH3-64 with the session's secret.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "wire/ids.hpp"

namespace migrate::wire {

/// XXH3's default secret has 192 bytes too; a custom one of that length costs nothing extra.
inline constexpr std::size_t kHashSecretBytes = 192;

/// Immutable after it is made; any thread. A copy is 192 bytes: hold it where it is used.
class Hasher {
 public:
  /// Unkeyed XXH3-64, for records sent before both halves of the secret are known.
  Hasher() = default;
  /// The session's: the secret is the source's half (HELLO), then the target's (WELCOME).
  Hasher(const SessionRandom& source, const SessionRandom& target);

  [[nodiscard]] bool keyed() const { return keyed_; }
  [[nodiscard]] std::uint64_t hash(std::span<const std::byte> bytes) const;

 private:
  alignas(64) std::array<std::byte, kHashSecretBytes> secret_{};
  bool keyed_ = false;
};

}  // namespace migrate::wire
