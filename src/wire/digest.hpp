// PageDigest: one 64-bit hash a page, and the whole-memory digest as their sum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "migrate/memory.hpp"
#include "wire/hasher.hpp"
#include "wire/ids.hpp"

namespace migrate::wire {

/// The digest of a guest's memory is the sum modulo 2^64 of mix() over all pages of all regions.
///
/// A page that reads as zero adds nothing, so fresh memory has digest 0, a hole costs nothing, and
/// a new region changes nothing. Each side keeps the sum up to date by adding change() for every
/// page sent or received and taking mix() away for pages of a removed region. `--verify full`
/// compares the same sum computed anew from memory.
///
/// Immutable; any thread.
class PageDigest {
 public:
  /// `hasher` must be the session's (keyed).
  explicit PageDigest(const Hasher& hasher);

  /// What stands in a table of hashes for a page of which nobody knows what the target has. No
  /// page's hash.
  static constexpr std::uint64_t kVoid = 0;

  /// Of kPageSize bytes; never kVoid.
  [[nodiscard]] std::uint64_t hash(std::span<const std::byte> page) const;
  /// The hash of a page of zeros; what a page table starts with.
  [[nodiscard]] std::uint64_t zero_hash() const { return zero_hash_; }

  /// What a page adds to the sum; `page` counts from 0 at the region's first. 0 for zero_hash() and
  /// for kVoid.
  [[nodiscard]] std::uint64_t mix(RegionHandle region, std::uint64_t page,
                                  std::uint64_t hash) const;
  /// How the sum changes when a page's hash does (modulo 2^64).
  [[nodiscard]] std::uint64_t change(RegionHandle region, std::uint64_t page, std::uint64_t before,
                                     std::uint64_t after) const {
    return mix(region, page, after) - mix(region, page, before);
  }

 private:
  Hasher hasher_;
  std::uint64_t zero_hash_;
};

}  // namespace migrate::wire
