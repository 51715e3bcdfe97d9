// LiveRegion: how far a live snapshot has come with a region, by units: the least memory that can
// be protected, a page or a huge page of hugetlb.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "memory/pagemap.hpp"
#include "migrate/memory.hpp"
#include "postcopy/page_states.hpp"

namespace migrate::checkpoint {

/// Units, from the region's first.
struct UnitRange {
  std::uint64_t first = 0, count = 0;
  [[nodiscard]] std::uint64_t end() const { return first + count; }
};

struct LiveRegion {
  static constexpr std::size_t kUnitsTogetherMax = 128;
  LiveRegion(std::uint16_t number, const Region& region_of, std::byte* address,
             std::uint64_t pages_of_unit)
      : index(number),
        region(region_of),
        memory(address),
        unit_pages(pages_of_unit),
        units(region_of.range.count / pages_of_unit),
        written(units),
        wanted(units),
        unclaimed(units) {}

  [[nodiscard]] AddressRange addresses() const { return addresses_of({0, units}); }
  [[nodiscard]] AddressRange addresses_of(UnitRange range) const {
    const auto begin = reinterpret_cast<std::uint64_t>(memory) + range.first * unit_bytes();
    return {begin, begin + range.count * unit_bytes()};
  }
  [[nodiscard]] std::uint64_t unit_bytes() const { return unit_pages * kPageSize; }
  [[nodiscard]] UnitRange units_of(PageRange range) const {
    const std::uint64_t from = (range.first - region.range.first) / unit_pages;
    const std::uint64_t to = (range.end() - region.range.first + unit_pages - 1) / unit_pages;
    return {from, to - from};
  }
  [[nodiscard]] PageRange pages_of(UnitRange range) const {
    return {region.range.first + range.first * unit_pages, range.count * unit_pages};
  }
  [[nodiscard]] std::uint64_t unit_of(std::uint64_t address) const {
    return (address - reinterpret_cast<std::uint64_t>(memory)) / unit_bytes();
  }
  /// The `size` units, beginning at a multiple of that, in which `unit` lies.
  [[nodiscard]] UnitRange around(std::uint64_t unit, std::uint64_t size) const {
    const std::uint64_t first = unit / size * size;
    return {first, std::min(size, units - first)};
  }

  const std::uint16_t index;  ///< In the image.
  const Region region;
  std::byte* const memory;
  const std::uint64_t unit_pages;
  const std::uint64_t units;

  /// Before the instant: not protected any more, because they were about to be written.
  postcopy::AtomicBits written;
  /// From the instant on: have pages to be saved. Does not change any more.
  postcopy::AtomicBits wanted;
  /// Of `wanted`: nobody has copied them. Who clears the bit copies, and then lifts the protection.
  postcopy::AtomicBits unclaimed;
  const PageBitmap::Segment* pages = nullptr;  ///< Which pages are to be saved.
};

}  // namespace migrate::checkpoint
