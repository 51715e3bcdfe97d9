#include "adapters/kvm/memory_release.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <string>

#include "adapters/kvm/zeroing.hpp"

namespace migrate::kvm {
namespace {

Error unknown_unit(int sys_errno) {
  return make_errno_error(ErrorCode::kIo, sys_errno,
                          "the size of the huge pages under guest memory is not known");
}

/// Of the private mapping at an address, by smaps: madvise() has rounded what is no whole page up
/// in some kernels (5.18), and would drop what is still needed.
Result<std::uint64_t> mapped_unit(const std::byte* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    unsigned long kib = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      inside = begin <= wanted && wanted < end;
    } else if (inside && std::sscanf(line.c_str(), "KernelPageSize: %lu kB", &kib) == 1) {
      return std::uint64_t{kib} << 10;
    }
  }
  return unknown_unit(0);
}

Result<std::uint64_t> unit_of(const KvmMemorySlot& slot) {
  if (slot.memfd < 0) return mapped_unit(slot.host);
  // A file system of huge pages says their size.
  struct stat info {};
  if (::fstat(slot.memfd, &info) != 0) return unknown_unit(errno);
  return static_cast<std::uint64_t>(info.st_blksize);
}

}  // namespace

Result<MemoryRelease::Huge> MemoryRelease::look_at(const KvmMemorySlot& slot) {
  MIGRATE_ASSIGN(const std::uint64_t unit, unit_of(slot));
  if (unit < kPageSize || unit % kPageSize != 0) return unknown_unit(0);
  const std::uint64_t begin =
      slot.memfd < 0 ? reinterpret_cast<std::uintptr_t>(slot.host) : slot.memfd_offset;
  Huge huge;
  huge.unit_pages = unit / kPageSize;
  huge.before = begin % unit / kPageSize;
  const std::uint64_t pages = slot.bytes / kPageSize;
  huge.released.resize(pages);
  // Pages that are not the slot's are never released.
  huge.left.assign((huge.before + pages + huge.unit_pages - 1) / huge.unit_pages, huge.unit_pages);
  return huge;
}

Status MemoryRelease::release(const KvmMemorySlot& slot, PageRange range) {
  return slot.backing == Backing::kHugetlb ? release_huge(slot, range) : release_pages(slot, range);
}

Status MemoryRelease::release_huge(const KvmMemorySlot& slot, PageRange range) {
  auto known = huge_.find(slot.slot);
  if (known == huge_.end()) {
    MIGRATE_ASSIGN(Huge fresh, look_at(slot));
    known = huge_.emplace(slot.slot, std::move(fresh)).first;
  }
  Huge& huge = known->second;
  const std::uint64_t first = range.first - slot.guest_address.page();
  for (std::uint64_t page = first; page < first + range.count; ++page) {
    if (huge.released[page]) continue;
    huge.released[page] = true;
    const std::uint64_t unit = (huge.before + page) / huge.unit_pages;
    if (--huge.left[unit] > 0) continue;
    const std::uint64_t begin = unit * huge.unit_pages - huge.before;
    MIGRATE_TRY(release_pages(slot, {slot.guest_address.page() + begin, huge.unit_pages}));
  }
  return {};
}

}  // namespace migrate::kvm
