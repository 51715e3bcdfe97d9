#include "wire/digest.hpp"

#include <array>

#include "wire/codec.hpp"

namespace migrate::wire {

PageDigest::PageDigest(const Hasher& hasher) : hasher_(hasher) {
  MIGRATE_CHECK(hasher.keyed());
  constexpr std::array<std::byte, kPageSize> kZeros{};
  zero_hash_ = hash(kZeros);
}

std::uint64_t PageDigest::hash(std::span<const std::byte> page) const {
  MIGRATE_CHECK(page.size() == kPageSize);
  const std::uint64_t hash = hasher_.hash(page);
  return hash == kVoid ? 1 : hash;
}

std::uint64_t PageDigest::mix(RegionHandle region, std::uint64_t page, std::uint64_t hash) const {
  if (hash == zero_hash_ || hash == kVoid) return 0;
  std::array<std::byte, 24> tuple;
  store_u64(tuple.data(), region.number);
  store_u64(tuple.data() + 8, page);
  store_u64(tuple.data() + 16, hash);
  return hasher_.hash(tuple);
}

}  // namespace migrate::wire
