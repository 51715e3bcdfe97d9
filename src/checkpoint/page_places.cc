#include "checkpoint/page_places.hpp"

#include <numeric>
#include <utility>

namespace migrate::checkpoint {

bool same_places(std::span<const Region> a, std::span<const Region> b) {
  return std::ranges::equal(a, b, [](const Region& x, const Region& y) {
    return x.id.space == y.id.space && x.id.id == y.id.id && x.range == y.range;
  });
}

PagePlaces::PagePlaces(std::span<const Region> regions)
    : regions_(regions), order_(regions.size()) {
  std::iota(order_.begin(), order_.end(), std::uint16_t{0});
  std::ranges::sort(order_, {}, [this](std::uint16_t index) {
    return std::pair(regions_[index].id.space, regions_[index].range.first);
  });
}

PagePlaces::Run PagePlaces::find(std::uint32_t space, GuestPage page, std::uint64_t count) const {
  const auto next = std::ranges::partition_point(order_, [&](std::uint16_t index) {
    const Region& region = regions_[index];
    return std::pair(region.id.space, region.range.end()) <= std::pair(space, page);
  });
  if (next == order_.end() || regions_[*next].id.space != space) return {std::nullopt, 0, count};
  const PageRange& range = regions_[*next].range;
  if (page < range.first) return {std::nullopt, 0, std::min(count, range.first - page)};
  return {*next, page - range.first, std::min(count, range.end() - page)};
}

}  // namespace migrate::checkpoint
