// OwnMemory: areas of this process's memory of a given backing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "migrate/trackers.hpp"
#include "tests/support/huge_pages.hpp"

namespace migrate::testing {

enum class MemoryKind : std::uint8_t { kAnonymous, kMemfd, kHugePages, kHugetlb };

class OwnMemory {
 public:
  static constexpr std::uint64_t kPagesAHuge = 512;

  /// Areas of `area_pages` pages (rounded up to whole huge pages) far apart from one another. When
  /// the host does not give such memory, why_not() says why and there are no areas.
  OwnMemory(MemoryKind kind, std::span<const std::uint64_t> area_pages);
  ~OwnMemory();
  OwnMemory(const OwnMemory&) = delete;
  OwnMemory& operator=(const OwnMemory&) = delete;

  [[nodiscard]] const std::string& why_not() const { return why_not_; }
  [[nodiscard]] const std::vector<MappedRegion>& areas() const { return areas_; }
  /// Maps the areas of a memfd once more, for as long as this is there.
  [[nodiscard]] std::vector<std::byte*> map_again();

 private:
  bool map(MemoryKind kind, std::uint64_t pages);

  std::optional<HugePages> reserved_;
  std::vector<std::span<std::byte>> rooms_;  ///< The areas with the guard pages around them.
  std::vector<Fd> memfds_;
  std::vector<MappedRegion> areas_;
  std::string why_not_;
};

}  // namespace migrate::testing
