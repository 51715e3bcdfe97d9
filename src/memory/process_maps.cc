#include "memory/process_maps.hpp"

#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string>

namespace migrate {
namespace {

bool starts_with_any(std::string_view name, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); });
}

/// Names that the kernel gives to memory without a file of its own: memfds, POSIX and System V
/// shared memory, and shared anonymous memory.
bool names_shared_memory(std::string_view name) {
  return starts_with_any(name, {"/memfd:", "/dev/shm/", "/SYSV", "/dev/zero", "[anon_shmem:"});
}

Backing backing_of(const ProcessMapping& mapping) {
  if (mapping.name.starts_with("/anon_hugepage")) return Backing::kHugetlb;
  if (mapping.inode == 0) return Backing::kAnonymous;
  return names_shared_memory(mapping.name) ? Backing::kMemfd : Backing::kFile;
}

/// Takes a number from the front of `text` up to `until`, which is taken, too.
std::optional<std::uint64_t> take_number(std::string_view& text, char until, int base) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  const auto length = static_cast<std::size_t>(end - text.data());
  if (error != std::errc()) return std::nullopt;
  // The last field may end the line.
  if (length == text.size() && until == ' ') {
    text = {};
    return value;
  }
  if (length >= text.size() || text[length] != until) return std::nullopt;
  text.remove_prefix(length + 1);
  return value;
}

/// begin-end rwxp offset major:minor inode          name
std::optional<ProcessMapping> parse_line(std::string_view line) {
  ProcessMapping mapping;
  const auto begin = take_number(line, '-', 16);
  const auto end = begin ? take_number(line, ' ', 16) : std::nullopt;
  if (!end || *begin >= *end || *begin % kPageSize != 0 || *end % kPageSize != 0) return {};
  if (line.size() < 5 || line[4] != ' ') return {};
  const std::string_view rights = line.substr(0, 4);
  line.remove_prefix(5);
  const auto offset = take_number(line, ' ', 16);
  const auto major = offset ? take_number(line, ':', 16) : std::nullopt;
  const auto minor = major ? take_number(line, ' ', 16) : std::nullopt;
  const auto inode = minor ? take_number(line, ' ', 10) : std::nullopt;
  if (!inode) return {};
  line.remove_prefix(std::min(line.size(), line.find_first_not_of(' ')));
  mapping.begin = *begin;
  mapping.end = *end;
  mapping.readable = rights[0] == 'r';
  mapping.writable = rights[1] == 'w';
  mapping.executable = rights[2] == 'x';
  mapping.shared = rights[3] == 's';
  mapping.file_offset = *offset;
  mapping.device = makedev(static_cast<unsigned>(*major), static_cast<unsigned>(*minor));
  mapping.inode = *inode;
  mapping.name = line;
  mapping.backing = backing_of(mapping);
  return mapping;
}

std::uint64_t begin_of(const ProcessRegion& region) {
  return region.region.range.first.number * kPageSize;
}
std::uint64_t end_of(const ProcessRegion& region) {
  return region.region.range.end().number * kPageSize;
}

bool same_object(const ProcessRegion& region, const ProcessMapping& mapping) {
  if (region.shared != mapping.shared || region.device != mapping.device ||
      region.inode != mapping.inode) {
    return false;
  }
  return mapping.inode == 0 ||
         mapping.file_offset - mapping.begin == region.file_offset - begin_of(region);
}

ProcessRegion make_region(const ProcessMapping& mapping, std::uint64_t begin, std::uint64_t end,
                          RegionId id) {
  ProcessRegion made;
  made.region = {id, {GuestAddr{begin}.page(), (end - begin) / kPageSize}, mapping.backing};
  made.shared = mapping.shared;
  made.device = mapping.device;
  made.inode = mapping.inode;
  if (mapping.inode != 0) made.file_offset = mapping.file_offset + (begin - mapping.begin);
  return made;
}

/// All of `region` is mapped as it was. `at` is the first mapping that may reach into it.
bool still_mapped(const ProcessRegion& region, std::vector<ProcessMapping>::const_iterator at,
                  std::vector<ProcessMapping>::const_iterator last) {
  std::uint64_t reached = begin_of(region);
  for (; at != last && at->begin <= reached && same_object(region, *at); ++at) {
    reached = at->end;
    if (reached >= end_of(region)) return true;
  }
  return false;
}

}  // namespace

Result<std::vector<ProcessMapping>> parse_process_maps(std::string_view text) {
  std::vector<ProcessMapping> mappings;
  while (!text.empty()) {
    const std::size_t length = std::min(text.size(), text.find('\n'));
    const std::string_view line = text.substr(0, length);
    auto mapping = parse_line(line);
    const std::uint64_t told = mappings.empty() ? 0 : mappings.back().end;
    if (!mapping || mapping->end <= told) {
      return make_error(ErrorCode::kInternal,
                        "a line of /proc/PID/maps is not understood: '" + std::string(line) + "'");
    }
    text.remove_prefix(std::min(text.size(), length + 1));
    if (mapping->begin < told) {
      if (mapping->inode != 0) mapping->file_offset += told - mapping->begin;
      mapping->begin = told;
    }
    mappings.push_back(*std::move(mapping));
  }
  return mappings;
}

bool belongs_to_process(const ProcessMapping& mapping) {
  const std::string_view name = mapping.name;
  if (mapping.shared) {
    return mapping.inode != 0 &&
           (names_shared_memory(name) || mapping.backing == Backing::kHugetlb);
  }
  if (name.starts_with('[')) return starts_with_any(name, {"[heap]", "[stack", "[anon:"});
  if (names_shared_memory(name)) return true;
  return !starts_with_any(name, {"/dev/", "anon_inode:", "socket:"});
}

std::vector<AddressRange> locked_areas_of(std::string_view smaps) {
  std::vector<AddressRange> locked;
  AddressRange current;
  while (!smaps.empty()) {
    const std::size_t length = std::min(smaps.size(), smaps.find('\n'));
    const std::string_view line = smaps.substr(0, length);
    smaps.remove_prefix(std::min(smaps.size(), length + 1));
    constexpr std::string_view kFlags = "VmFlags:";
    if (!line.starts_with(kFlags)) {
      if (const auto mapping = parse_line(line)) current = {mapping->begin, mapping->end};
    } else if ((std::string(line) + " ").find(" lo ") != std::string::npos) {
      locked.push_back(current);
    }
  }
  return locked;
}

bool filled_lazily(const ProcessMapping& mapping, const std::vector<AddressRange>& locked) {
  if (mapping.shared || mapping.inode != 0 || mapping.backing != Backing::kAnonymous) return false;
  const auto at = std::partition_point(locked.begin(), locked.end(), [&](const AddressRange& one) {
    return one.end <= mapping.begin;
  });
  return at == locked.end() || at->begin >= mapping.end;
}

std::vector<ProcessRegion> next_regions(const std::vector<ProcessRegion>& old,
                                        const std::vector<ProcessMapping>& mappings,
                                        const std::function<bool(const ProcessMapping&)>& worth_one,
                                        std::uint32_t space, std::uint32_t& next_id) {
  std::vector<ProcessRegion> kept;
  auto at = mappings.begin();
  for (const ProcessRegion& region : old) {
    while (at != mappings.end() && at->end <= begin_of(region)) ++at;
    if (still_mapped(region, at, mappings.end())) kept.push_back(region);
  }
  std::vector<ProcessRegion> regions;
  auto next = kept.begin();
  for (const ProcessMapping& mapping : mappings) {
    std::uint64_t begin = mapping.begin;
    const auto add_until = [&](std::uint64_t end) {
      if (begin < end && worth_one(mapping)) {
        regions.push_back(make_region(mapping, begin, end, {space, next_id++, 0}));
      }
    };
    while (next != kept.end() && begin_of(*next) < mapping.end) {
      add_until(begin_of(*next));
      begin = std::max(begin, std::min(mapping.end, end_of(*next)));
      if (end_of(*next) > mapping.end) break;  // It goes on in the next mapping.
      regions.push_back(*next++);
    }
    add_until(mapping.end);
  }
  return regions;
}

RegionDelta delta_between(const std::vector<Region>& before, const std::vector<Region>& after) {
  const auto ids = [](const std::vector<Region>& regions) {
    std::vector<RegionId> sorted;
    for (const Region& region : regions) sorted.push_back(region.id);
    std::sort(sorted.begin(), sorted.end());
    return sorted;
  };
  const std::vector<RegionId> old_ids = ids(before);
  const std::vector<RegionId> new_ids = ids(after);
  RegionDelta delta;
  for (const Region& region : after) {
    if (!std::binary_search(old_ids.begin(), old_ids.end(), region.id)) {
      delta.added.push_back(region);
    }
  }
  for (const Region& region : before) {
    if (!std::binary_search(new_ids.begin(), new_ids.end(), region.id)) {
      delta.removed.push_back(region.id);
    }
  }
  return delta;
}

std::vector<ProcessMapping> clipped(const std::vector<ProcessMapping>& mappings,
                                    std::uint64_t begin, std::uint64_t end) {
  std::vector<ProcessMapping> parts;
  auto at = std::partition_point(mappings.begin(), mappings.end(),
                                 [&](const ProcessMapping& m) { return m.end <= begin; });
  for (; at != mappings.end() && at->begin < end; ++at) {
    ProcessMapping part = *at;
    if (part.begin < begin) {
      if (part.inode != 0) part.file_offset += begin - part.begin;
      part.begin = begin;
    }
    part.end = std::min(part.end, end);
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace migrate
