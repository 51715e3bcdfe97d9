// PageHeat: how often each page was found dirty, to send hot pages last.
#pragma once

#include <cstdint>
#include <vector>

#include "migrate/memory.hpp"

namespace migrate::precopy {

/// One byte a page, halved every few rounds so that old heat fades. Coordinator only.
class PageHeat {
 public:
  /// Follows a change of regions; new pages begin cold.
  void reshape(std::span<const Region> regions);

  /// Notes one round's dirty set.
  void note(const PageBitmap& dirty);

  /// The part of `set` that was dirty in at least two of the recent rounds.
  [[nodiscard]] PageBitmap hot_part(const PageBitmap& set) const;

 private:
  struct Segment {
    Region region;
    std::vector<std::uint8_t> heat;
  };
  [[nodiscard]] const Segment* find(const RegionId& region) const;

  std::vector<Segment> segments_;
  std::uint32_t notes_ = 0;
};

}  // namespace migrate::precopy
