#include "wire/hasher.hpp"

#include <xxhash.h>

#include <algorithm>

#ifdef MIGRATE_XXH_DISPATCH
#define XXH_DISPATCH_DISABLE_REPLACE
#include <xxh_x86dispatch.h>
#endif

namespace migrate::wire {
namespace {

static_assert(kHashSecretBytes == 2 * sizeof(SessionRandom::bytes));

// Up to here XXH3 does not use its vector loop, and looking at the processor would only cost.
constexpr std::size_t kShortBytesMax = 240;

std::uint64_t hash_long(std::span<const std::byte> bytes,
                        const std::array<std::byte, kHashSecretBytes>& secret) {
#ifdef MIGRATE_XXH_DISPATCH
  // The library's first look at the processor is not synchronised: take it once, here.
  static const bool looked = [] {
    constexpr std::array<std::byte, 2 * kShortBytesMax> kBytes{};
    static_cast<void>(XXH3_64bits_dispatch(kBytes.data(), kBytes.size()));
    return true;
  }();
  static_cast<void>(looked);
  return XXH3_64bits_withSecret_dispatch(bytes.data(), bytes.size(), secret.data(), secret.size());
#else
  return XXH3_64bits_withSecret(bytes.data(), bytes.size(), secret.data(), secret.size());
#endif
}

}  // namespace

Hasher::Hasher(const SessionRandom& source, const SessionRandom& target) : keyed_(true) {
  const auto middle = std::copy(source.bytes.begin(), source.bytes.end(), secret_.begin());
  std::copy(target.bytes.begin(), target.bytes.end(), middle);
}

std::uint64_t Hasher::hash(std::span<const std::byte> bytes) const {
  if (!keyed_) return XXH3_64bits(bytes.data(), bytes.size());
  if (bytes.size() > kShortBytesMax) return hash_long(bytes, secret_);
  return XXH3_64bits_withSecret(bytes.data(), bytes.size(), secret_.data(), secret_.size());
}

}  // namespace migrate::wire
