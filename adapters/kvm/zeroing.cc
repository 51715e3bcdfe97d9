#include "adapters/kvm/zeroing.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/fd.hpp"

namespace migrate::kvm {
namespace {

/// Runs up to this long are overwritten where their pages exist: 16 pages take 2.5 us to overwrite
/// and 1 us to look up, a hole punch takes 3 us for one page and 13 us for 16.
constexpr std::uint64_t kOverwritePagesMax = 16;

struct AddressSpan {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
};

std::byte* address_of(const KvmMemorySlot& slot, PageRange range) {
  return slot.host + (range.first - slot.guest_address.page()) * kPageSize;
}

/// Whether each page of a short run exists in memory. (For memory of a memfd mincore() asks the
/// file's cache, so pages this process has not mapped count too.)
bool all_resident(const std::byte* address, std::uint64_t pages) {
  std::array<unsigned char, kOverwritePagesMax> resident{};
  if (::mincore(const_cast<std::byte*>(address), pages * kPageSize, resident.data()) != 0) {
    return false;
  }
  return std::all_of(resident.begin(), resident.begin() + static_cast<std::ptrdiff_t>(pages),
                     [](unsigned char flags) { return (flags & 1) != 0; });
}

bool punch(const KvmMemorySlot& slot, PageRange range) {
  const std::uint64_t offset =
      slot.memfd_offset + (range.first - slot.guest_address.page()) * kPageSize;
  int result = 0;
  do {
    result = ::fallocate(slot.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         static_cast<off_t>(offset), static_cast<off_t>(range.bytes()));
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

/// Overwrites what exists: nothing is given back, for a page of the pool that went elsewhere
/// meanwhile kills the process when it is touched again, and older kernels forget that a page given
/// back was reserved. What was never touched reads as zero already. Private memory only: of shared
/// memory mincore() knows what this process has mapped, not what there is.
void overwrite_existing(std::byte* address, std::size_t bytes) {
  while (bytes > 0) {
    // The smallest huge page there is: larger ones are asked for in parts.
    constexpr std::uintptr_t kAsk = 2 << 20;
    const std::size_t to_edge = kAsk - reinterpret_cast<std::uintptr_t>(address) % kAsk;
    const std::size_t part = std::min(bytes, to_edge);
    unsigned char resident = 0;
    const bool known = ::mincore(address, kPageSize, &resident) == 0;
    if (!known || (resident & 1) != 0) std::memset(address, 0, part);
    address += part;
    bytes -= part;
  }
}

Status find_file_holes(const KvmMemorySlot& slot, PageBitmap& holes) {
  const Region region = region_of(slot);
  const auto begin = static_cast<off_t>(slot.memfd_offset);
  const off_t end = begin + static_cast<off_t>(slot.bytes);
  const auto page_at = [&](off_t offset) {
    return region.range.first + static_cast<std::uint64_t>(offset - begin) / kPageSize;
  };
  off_t hole = ::lseek(slot.memfd, begin, SEEK_HOLE);
  // EINVAL: the file does not know its holes; ENXIO: it is shorter than the slot says.
  while (hole >= 0 && hole < end) {
    off_t data = ::lseek(slot.memfd, hole, SEEK_DATA);
    if (data < 0 && errno != ENXIO) return {};
    if (data < 0 || data > end) data = end;
    // Inwards to whole pages: a page that is data in part is data.
    constexpr auto kPage = static_cast<off_t>(kPageSize);
    const GuestPage first = page_at((hole + kPage - 1) / kPage * kPage);
    const GuestPage stop = page_at(data);
    if (first < stop) holes.set(region.id, PageRange{first, stop - first});
    if (data >= end) break;
    hole = ::lseek(slot.memfd, data, SEEK_HOLE);
  }
  return {};
}

/// The parts of [begin, end) under which a file lies (/proc/self/maps): what no page table knows
/// there reads as the file does. An image's pages are mapped so over a restored guest's memory.
std::vector<AddressSpan> files_under(std::uintptr_t begin, std::uintptr_t end) {
  std::vector<AddressSpan> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    AddressSpan span;
    unsigned long inode = 0;
    const int fields = std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %lu",
                                   &span.begin, &span.end, &inode);
    // A line that cannot be read may be a file's.
    if (fields != 3) return {{begin, end}};
    if (inode != 0 && span.begin < end && span.end > begin) {
      found.push_back({std::max(span.begin, begin), std::min(span.end, end)});
    }
  }
  if (!maps.eof() || maps.bad()) return {{begin, end}};
  return found;
}

/// Pages of private anonymous memory that no page table knows, by /proc/self/pagemap.
Status find_anonymous_holes(const KvmMemorySlot& slot, PageBitmap& holes) {
  const Region region = region_of(slot);
  const Fd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap) return {};
  // Present, in swap, a file's or shared, or protected by a userfaultfd: something is known of it.
  constexpr std::uint64_t kKnown = std::uint64_t{1} << 63 | std::uint64_t{1} << 62 |
                                   std::uint64_t{1} << 61 | std::uint64_t{1} << 57;
  std::vector<std::uint64_t> entries(8192);
  const std::uint64_t first_entry = reinterpret_cast<std::uintptr_t>(slot.host) / kPageSize;
  for (std::uint64_t done = 0; done < region.range.count;) {
    const std::uint64_t count = std::min<std::uint64_t>(entries.size(), region.range.count - done);
    const auto offset = static_cast<off_t>((first_entry + done) * sizeof(std::uint64_t));
    const ssize_t got =
        ::pread(pagemap.get(), entries.data(), count * sizeof(std::uint64_t), offset);
    if (got <= 0) break;
    const std::uint64_t pages = static_cast<std::uint64_t>(got) / sizeof(std::uint64_t);
    for (std::uint64_t i = 0; i < pages; ++i) {
      if ((entries[i] & kKnown) == 0) holes.set(region.id, region.range.first + (done + i));
    }
    done += pages;
  }
  // Huge pages have a file to the kernel also where they are anonymous.
  if (slot.backing == Backing::kHugetlb) return {};
  const auto begin = reinterpret_cast<std::uintptr_t>(slot.host);
  for (const AddressSpan& span : files_under(begin, begin + slot.bytes)) {
    holes.clear(region.id, {region.range.first + (span.begin - begin) / kPageSize,
                            (span.end - span.begin) / kPageSize});
  }
  return {};
}

}  // namespace

Status zero_pages(const KvmMemorySlot& slot, PageRange range) {
  std::byte* address = address_of(slot, range);
  if (slot.backing == Backing::kHugetlb && slot.memfd < 0) {
    overwrite_existing(address, range.bytes());
    return {};
  }
  const bool cheap = range.count <= kOverwritePagesMax && all_resident(address, range.count);
  if (slot.backing == Backing::kMemfd) {
    if (!cheap && punch(slot, range)) return {};
  } else if (slot.backing == Backing::kAnonymous) {
    // Giving back a part of a huge page splits it.
    if (!cheap && ::madvise(address, range.bytes(), MADV_DONTNEED) == 0) return {};
  }
  std::memset(address, 0, range.bytes());
  return {};
}

Status release_pages(const KvmMemorySlot& slot, PageRange range) {
  std::byte* address = address_of(slot, range);
  if (slot.memfd >= 0 && punch(slot, range)) return {};
  // EINVAL: locked memory, or huge pages of a kernel before 5.18. It stays.
  if (::madvise(address, range.bytes(), MADV_DONTNEED) == 0 || errno == EINVAL) return {};
  return make_errno_error(ErrorCode::kIo, errno, "cannot give guest memory back to the host");
}

Status find_holes(const KvmMemorySlot& slot, PageBitmap& holes) {
  switch (slot.backing) {
    case Backing::kMemfd:
      return find_file_holes(slot, holes);
    case Backing::kAnonymous:
      return find_anonymous_holes(slot, holes);
    case Backing::kHugetlb:
      // A file of huge pages does not tell its holes (lseek), nor do page tables what it has.
      if (slot.memfd < 0) return find_anonymous_holes(slot, holes);
      break;
    case Backing::kUnknown:
    case Backing::kFile:
      break;
  }
  return {};
}

}  // namespace migrate::kvm
