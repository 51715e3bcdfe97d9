// OwnMemory: areas of this process's memory of a given backing, as a guest's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "migrate/trackers.hpp"
#include "tests/dirtylog/contract/thread_writer.hpp"

namespace migrate::testing {

enum class MemoryKind : std::uint8_t { kAnonymous, kMemfd, kHugePages, kHugetlb };

class OwnMemory final : public PageSource {
 public:
  /// Areas of `area_pages` pages (rounded up to whole huge pages) far apart from one another. When
  /// the host does not give such memory, why_not() says why and there are no areas.
  OwnMemory(MemoryKind kind, std::span<const std::uint64_t> area_pages);
  ~OwnMemory() override;
  OwnMemory(const OwnMemory&) = delete;
  OwnMemory& operator=(const OwnMemory&) = delete;

  [[nodiscard]] const std::string& why_not() const { return why_not_; }
  [[nodiscard]] std::span<const PageRange> areas() const { return areas_; }
  [[nodiscard]] const std::vector<MappedRegion>& mapped_regions() const { return mapped_; }
  [[nodiscard]] std::vector<PlacedArea> placed() const;
  [[nodiscard]] std::byte* at(GuestPage page) const;

  Result<std::vector<Region>> regions() override;
  Result<ReadOutcome> read(const RegionId& region, PageRange range,
                           std::span<std::byte> into) override;
  std::span<const std::byte> mapped(const RegionId& region) override;
  Status holes(const RegionId&, PageBitmap&) override { return {}; }

 private:
  bool map(MemoryKind kind, std::uint64_t pages);

  std::vector<std::span<std::byte>> rooms_;  ///< The areas with the guard pages around them.
  std::vector<PageRange> areas_;
  std::vector<MappedRegion> mapped_;
  std::string why_not_;
};

}  // namespace migrate::testing
