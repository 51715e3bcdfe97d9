#include "postcopy/mapped_backing.hpp"

#include <linux/magic.h>
#include <sys/vfs.h>

#include <cctype>
#include <charconv>
#include <fstream>
#include <sstream>

#include "memory/process_maps.hpp"

namespace migrate::postcopy {
namespace {

/// What smaps says of a mapping beside the line that maps has, too.
struct Details {
  std::uint64_t page_kib = 4;
  bool hugetlb = false;
  bool locked = false;
};

/// "7f0000000000-7f0000001000 rw-p ...", where all other lines are "Name: value".
bool is_mapping_line(std::string_view line) {
  const std::size_t end = line.find_first_of(" :");
  return end != std::string_view::npos && line[end] == ' ' &&
         line.substr(0, end).find('-') != std::string_view::npos;
}

void note_detail(std::string_view line, Details& details) {
  constexpr std::string_view kPageSizeName = "KernelPageSize:";
  constexpr std::string_view kFlagsName = "VmFlags:";
  if (line.starts_with(kPageSizeName)) {
    line.remove_prefix(kPageSizeName.size());
    while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
    std::from_chars(line.data(), line.data() + line.size(), details.page_kib);
  } else if (line.starts_with(kFlagsName)) {
    details.hugetlb = line.find(" ht") != std::string_view::npos;
    details.locked = line.find(" lo") != std::string_view::npos;
  }
}

/// A file that lies in memory only: what is punched out of it is gone, and its holes fault.
bool is_in_memory(const std::string& name) {
  if (name.starts_with("/memfd:") || name.starts_with("/dev/zero") || name.starts_with("/SYSV") ||
      name.starts_with("/anon_hugepage")) {
    return true;
  }
  struct statfs system {};
  return ::statfs(name.c_str(), &system) == 0 &&
         (system.f_type == TMPFS_MAGIC || system.f_type == HUGETLBFS_MAGIC);
}

/// Why such a mapping cannot be filled lazily; empty when it can.
std::string refusal_of(const ProcessMapping& mapping, const Details& details) {
  if (!mapping.writable) return "is not writable";
  if (mapping.shared && details.locked) return "is locked (mlock) and shared";
  const bool file = mapping.inode != 0;
  if (file && !is_in_memory(mapping.name)) return "is of the file " + mapping.name;
  const bool own = mapping.name.starts_with("/anon_hugepage");
  if (file && !mapping.shared && !own) return "is a private mapping of the file " + mapping.name;
  return {};
}

Error cannot(const std::string& what, const std::string& why, const std::string& instead) {
  return make_error(ErrorCode::kUnsupported, what + " cannot be filled lazily: it " + why)
      .advise(
          "give the guest private anonymous memory or a shared memfd, in pages of 2 MiB at most, "
          "or " +
          instead);
}

}  // namespace

Result<MappedBackings> MappedBackings::read() {
  std::ifstream file("/proc/self/smaps");
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return make_error(ErrorCode::kIo, "/proc/self/smaps cannot be read");
  return parse(text.str());
}

Result<MappedBackings> MappedBackings::parse(std::string_view text) {
  std::string lines;
  std::vector<Details> details;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (is_mapping_line(line)) {
      lines.append(line).append("\n");
      details.emplace_back();
    } else if (!details.empty()) {
      note_detail(line, details.back());
    }
  }
  MIGRATE_ASSIGN(const auto mappings, parse_process_maps(lines));
  if (mappings.size() != details.size()) {
    return make_error(ErrorCode::kInternal, "/proc/self/smaps is not as expected");
  }
  MappedBackings made;
  for (std::size_t i = 0; i < mappings.size(); ++i) {
    const ProcessMapping& mapping = mappings[i];
    const bool hugetlb = details[i].hugetlb;
    const std::uint64_t unit = hugetlb ? details[i].page_kib << 10 : std::uint64_t{4096};
    made.mappings_.push_back({{mapping.begin, mapping.end},
                              {mapping.shared, hugetlb, unit},
                              refusal_of(mapping, details[i])});
  }
  return made;
}

Result<MappedBacking> MappedBackings::of(AddressRange range, const std::string& what,
                                         const std::string& instead) const {
  const MappedBacking* first = nullptr;
  std::uint64_t covered = range.begin;
  for (const Mapping& mapping : mappings_) {
    if (mapping.range.end <= covered || mapping.range.begin >= range.end) continue;
    if (mapping.range.begin > covered) break;
    if (!mapping.refused.empty()) return cannot(what, mapping.refused, instead);
    if (first == nullptr) first = &mapping.backing;
    if (!(mapping.backing == *first)) return cannot(what, "is of several kinds of memory", instead);
    covered = mapping.range.end;
  }
  if (covered < range.end || first == nullptr)
    return cannot(what, "is mapped only in part", instead);
  return *first;
}

}  // namespace migrate::postcopy
