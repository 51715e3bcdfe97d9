// The mappings of a process, and which regions of guest memory they make: both pure.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "memory/pagemap.hpp"
#include "migrate/memory.hpp"
#include "migrate/process_memory.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Reads the text of /proc/PID/maps. Backing is told from the name: memory of huge pages in a file
/// of a mounted hugetlbfs or a memfd looks like any other. kInternal, with the line, for a text the
/// kernel does not write. Lines may overlap: the kernel looks at mappings one after the other, and
/// what was told of one may be part of the next by then. The first line holds.
Result<std::vector<ProcessMapping>> parse_process_maps(std::string_view text);

/// The mapping's content belongs to the process: see ProcessMemory.
[[nodiscard]] bool belongs_to_process(const ProcessMapping& mapping);

/// The mappings that are locked in memory, of the text of /proc/PID/smaps.
[[nodiscard]] std::vector<AddressRange> locked_areas_of(std::string_view smaps);
/// ProcessMappings::kLazilyFilled, of a mapping that belongs to the process. `locked` in order of
/// address.
[[nodiscard]] bool filled_lazily(const ProcessMapping& mapping,
                                 const std::vector<AddressRange>& locked);

/// A region and what makes it the same one at the next look.
struct ProcessRegion {
  Region region;
  bool shared = false;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t file_offset = 0;  ///< Of its first page; without a file 0.
  friend bool operator==(const ProcessRegion&, const ProcessRegion&) = default;
};

/// The regions that `mappings` (in order of address, those that belong to the process only) make of
/// those that were there: `old` ones that are still mapped alike, in full, stay; what else is
/// mapped becomes new ones where `worth_one` says so, with ids from `next_id` on. In order of
/// address.
[[nodiscard]] std::vector<ProcessRegion> next_regions(
    const std::vector<ProcessRegion>& old, const std::vector<ProcessMapping>& mappings,
    const std::function<bool(const ProcessMapping&)>& worth_one, std::uint32_t space,
    std::uint32_t& next_id);

/// What changed between two looks; ids are compared.
[[nodiscard]] RegionDelta delta_between(const std::vector<Region>& before,
                                        const std::vector<Region>& after);

/// Those parts of `mappings` (in order) that lie in [begin, end).
[[nodiscard]] std::vector<ProcessMapping> clipped(const std::vector<ProcessMapping>& mappings,
                                                  std::uint64_t begin, std::uint64_t end);

}  // namespace migrate
