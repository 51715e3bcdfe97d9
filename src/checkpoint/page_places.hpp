// PagePlaces: where an image has the pages that another image of its chain names by other regions.
// A process tree's mappings come and go between two images; a page stays the one at its address.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// Whether the same regions stand at the same numbers, whatever the host of each backed them with.
[[nodiscard]] bool same_places(std::span<const Region> a, std::span<const Region> b);

/// Whether an image may have other regions than the one that it is based on, so that pages are
/// found by their addresses: a process's are what it has mapped, a machine's are what it is.
[[nodiscard]] constexpr bool may_change_layout(GuestKind image, GuestKind base) {
  return image == GuestKind::kContainer && base == GuestKind::kContainer;
}

/// Immutable; any thread.
class PagePlaces {
 public:
  /// `regions` must not overlap, and outlive this.
  explicit PagePlaces(std::span<const Region> regions);

  struct Run {
    std::optional<std::uint16_t> region;  ///< None: no region has these pages.
    std::uint64_t first = 0;              ///< Counted from that region's first.
    std::uint64_t count = 0;              ///< At least 1.
  };
  /// Of the `count` (1 or more) pages from `page` of address space `space` on, the first ones that
  /// lie together.
  [[nodiscard]] Run find(std::uint32_t space, GuestPage page, std::uint64_t count) const;

 private:
  std::span<const Region> regions_;
  std::vector<std::uint16_t> order_;  // By space and first page.
};

/// Calls `each(skip, run)` for all of the `count` pages from page `first` of `region` on: `skip` is
/// how many of them come before the run.
template <typename Each>
Status for_each_place(const PagePlaces& places, const Region& region, std::uint64_t first,
                      std::uint64_t count, Each&& each) {
  for (std::uint64_t skip = 0; skip < count;) {
    const auto run =
        places.find(region.id.space, region.range.first + (first + skip), count - skip);
    MIGRATE_TRY(each(skip, run));
    skip += run.count;
  }
  return {};
}

}  // namespace migrate::checkpoint
