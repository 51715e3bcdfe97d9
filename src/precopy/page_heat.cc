#include "precopy/page_heat.hpp"

#include <algorithm>
#include <utility>

namespace migrate::precopy {
namespace {

constexpr std::uint8_t kHot = 2;
// With a halving every fourth round, a page dirty every round settles between 4 and 8, and a page
// dirtied once is cold again after the next halving.
constexpr std::uint32_t kRoundsPerHalving = 4;

}  // namespace

void PageHeat::reshape(std::span<const Region> regions) {
  std::vector<Segment> reshaped;
  reshaped.reserve(regions.size());
  for (const Region& region : regions) {
    const auto kept = std::find_if(segments_.begin(), segments_.end(), [&](const Segment& segment) {
      return segment.region.id == region.id && segment.region.range == region.range;
    });
    if (kept != segments_.end()) {
      reshaped.push_back(std::move(*kept));
    } else {
      reshaped.push_back({region, std::vector<std::uint8_t>(region.range.count)});
    }
  }
  segments_ = std::move(reshaped);
}

void PageHeat::note(const PageBitmap& dirty) {
  if (++notes_ % kRoundsPerHalving == 0) {
    for (Segment& segment : segments_) {
      for (std::uint8_t& heat : segment.heat) heat = static_cast<std::uint8_t>(heat / 2);
    }
  }
  dirty.for_each_run([&](const RegionId& region, PageRange run) {
    auto* segment = const_cast<Segment*>(find(region));
    if (segment == nullptr) return;
    const std::uint64_t first = run.first - segment->region.range.first;
    for (std::uint64_t i = first; i < first + run.count; ++i) {
      if (segment->heat[i] < UINT8_MAX) ++segment->heat[i];
    }
  });
}

PageBitmap PageHeat::hot_part(const PageBitmap& set) const {
  PageBitmap hot;
  std::vector<Region> regions;
  for (const auto& segment : set.segments()) regions.push_back(segment.region);
  hot.reshape(regions, false);
  set.for_each_run([&](const RegionId& region, PageRange run) {
    const Segment* segment = find(region);
    if (segment == nullptr) return;
    for (std::uint64_t i = 0; i < run.count; ++i) {
      const GuestPage page = run.first + i;
      if (segment->heat[page - segment->region.range.first] >= kHot) hot.set(region, page);
    }
  });
  return hot;
}

const PageHeat::Segment* PageHeat::find(const RegionId& region) const {
  for (const Segment& segment : segments_) {
    if (segment.region.id == region) return &segment;
  }
  return nullptr;
}

}  // namespace migrate::precopy
