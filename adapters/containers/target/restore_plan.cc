#include "adapters/containers/target/restore_plan.hpp"

#include <algorithm>
#include <map>
#include <sstream>
#include <string>

namespace migrate::containers {
namespace {

std::string hex(std::uint64_t value) {
  std::ostringstream text;
  text << std::hex << value;
  return text.str();
}

Error missing(pid_t pid, const ImageArea& area, std::uint64_t begin, std::uint64_t end) {
  return make_error(ErrorCode::kIntegrity,
                    "of process " + std::to_string(pid) + ", memory " + hex(begin) + "-" +
                        hex(end) + " (in the area " + hex(area.begin) + "-" + hex(area.end) +
                        ") was neither sent as memory nor is it in CRIU's images")
      .advise("the tree goes on at the source; send again, and report it if it happens twice");
}

struct AddressRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// What a restore finds in the images: ascending, none of them touching the next. A process has as
/// many gaps as guard areas, which may be thousands.
std::vector<AddressRange> present_ranges(std::span<const ImagePages> pages) {
  std::vector<AddressRange> ranges;
  for (const ImagePages& run : pages) {
    // What could be lazy a lazy restore leaves out, even where the images have it.
    if (!run.present || run.lazy) continue;
    ranges.push_back({run.address, run.address + run.pages * kPageSize});
  }
  std::ranges::sort(ranges, {}, &AddressRange::begin);
  std::vector<AddressRange> joined;
  for (const AddressRange& range : ranges) {
    if (joined.empty() || joined.back().end < range.begin) {
      joined.push_back(range);
    } else {
      joined.back().end = std::max(joined.back().end, range.end);
    }
  }
  return joined;
}

/// Whether all of [begin, end) is in one of them.
bool covered(std::span<const AddressRange> ranges, std::uint64_t begin, std::uint64_t end) {
  const auto first = std::ranges::partition_point(
      ranges, [begin](const AddressRange& range) { return range.end <= begin; });
  return first != ranges.end() && first->begin <= begin && first->end >= end;
}

Result<std::vector<std::byte>> needed(const RestoreFolder& images, const std::string& name) {
  MIGRATE_ASSIGN(auto bytes, images.read(name));
  if (bytes) return *std::move(bytes);
  return make_error(ErrorCode::kProtocol, "the tree's state has no image " + name);
}

/// By process: the space that is its memory.
Result<std::map<pid_t, std::uint32_t>> spaces_of(std::span<const SpaceOwner> owners) {
  std::map<pid_t, std::uint32_t> spaces;
  for (const SpaceOwner& owner : owners) {
    if (!spaces.emplace(owner.pid, owner.space).second) {
      return make_error(ErrorCode::kProtocol,
                        "process " + std::to_string(owner.pid) + " has two address spaces");
    }
  }
  return spaces;
}

/// Memory that holds nothing is as good as there: CRIU maps it, and its first touch finds zeros.
void add_empty(std::span<const EmptyArea> empty, std::uint32_t space,
               std::vector<ImagePages>& pages) {
  for (const EmptyArea& area : empty) {
    if (area.space != space) continue;
    pages.push_back({area.begin, (area.end - area.begin) / kPageSize, false, true});
  }
}

}  // namespace

Status plan_process(pid_t pid, std::span<const ImageArea> areas, std::span<const ImagePages> pages,
                    std::span<const StagedRegion> regions, FillPlan& plan) {
  const std::vector<AddressRange> present = present_ranges(pages);
  for (const ImageArea& area : areas) {
    if (!area.lazy) continue;
    std::uint64_t at = area.begin;
    auto region = std::partition_point(regions.begin(), regions.end(), [&](const StagedRegion& r) {
      return r.region.range.end().number * kPageSize <= at;
    });
    while (at < area.end) {
      const bool more = region != regions.end();
      const std::uint64_t begin = more ? region->region.range.first.number * kPageSize : area.end;
      if (begin > at) {
        const std::uint64_t gap_end = std::min(begin, area.end);
        if (!covered(present, at, gap_end)) return missing(pid, area, at, gap_end);
        at = gap_end;
        continue;
      }
      const std::uint64_t end = std::min(region->region.range.end().number * kPageSize, area.end);
      plan.extents.push_back({pid, at, end, region->offset + (at - begin), area.wiped});
      at = end;
      ++region;
    }
  }
  return {};
}

Result<RestorePlan> plan_restore(const RestoreFolder& images, const RestoreFolder::Spaces& told,
                                 const StagedMemory& staging) {
  MIGRATE_ASSIGN(const auto spaces, spaces_of(told.owners));
  const std::vector<StagedRegion> all = staging.regions();
  RestorePlan plan;
  MIGRATE_ASSIGN(const auto pstree, needed(images, "pstree.img"));
  MIGRATE_ASSIGN(plan.processes, parse_pstree(pstree));
  for (const ImageProcess& process : plan.processes) {
    const std::string number = std::to_string(process.pid);
    MIGRATE_ASSIGN(const auto mm, images.read("mm-" + number + ".img"));
    if (!mm) continue;  // A zombie: it has no memory, and CRIU says so itself should it have some.
    MIGRATE_ASSIGN(auto areas, parse_areas(*mm));
    std::ranges::sort(areas, {}, &ImageArea::begin);
    MIGRATE_ASSIGN(const auto pagemap, images.read("pagemap-" + number + ".img"));
    std::vector<ImagePages> pages;
    if (pagemap) {
      MIGRATE_ASSIGN(pages, parse_pagemap(*pagemap));
    }
    std::span<const StagedRegion> own;
    if (const auto space = spaces.find(process.pid); space != spaces.end()) {
      add_empty(told.empty, space->second, pages);
      const auto before = [](const StagedRegion& r, std::uint32_t id) {
        return r.region.id.space < id;
      };
      const auto first = std::lower_bound(all.begin(), all.end(), space->second, before);
      auto last = first;
      while (last != all.end() && last->region.id.space == space->second) ++last;
      own = {first, last};
    }
    MIGRATE_TRY(plan_process(process.pid, areas, pages, own, plan.fill));
    plan.fill.pids.push_back(process.pid);
  }
  if (!plan.fill.pids.empty()) return plan;
  return make_error(ErrorCode::kProtocol, "the tree's state has no process");
}

}  // namespace migrate::containers
