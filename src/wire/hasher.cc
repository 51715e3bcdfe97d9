#include "wire/hasher.hpp"

#include <xxhash.h>

#include <algorithm>

namespace migrate::wire {

static_assert(kHashSecretBytes == 2 * sizeof(SessionRandom::bytes));

Hasher::Hasher(const SessionRandom& source, const SessionRandom& target) : keyed_(true) {
  const auto middle = std::copy(source.bytes.begin(), source.bytes.end(), secret_.begin());
  std::copy(target.bytes.begin(), target.bytes.end(), middle);
}

std::uint64_t Hasher::hash(std::span<const std::byte> bytes) const {
  if (!keyed_) return XXH3_64bits(bytes.data(), bytes.size());
  return XXH3_64bits_withSecret(bytes.data(), bytes.size(), secret_.data(), secret_.size());
}

}  // namespace migrate::wire
