#include "tests/dirtylog/contract/own_memory.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "base/fd.hpp"

namespace migrate::testing {
namespace {

constexpr std::uint64_t kHugePageBytes = 2ull << 20;
/// Not a multiple of 64, and far from the next area's.
constexpr std::uint64_t kFirstPage = 1000;
constexpr std::uint64_t kApart = 100'000;

bool is_huge(MemoryKind kind) {
  return kind == MemoryKind::kHugePages || kind == MemoryKind::kHugetlb;
}

Backing backing_of(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kMemfd:
      return Backing::kMemfd;
    case MemoryKind::kHugetlb:
      return Backing::kHugetlb;
    case MemoryKind::kAnonymous:
    case MemoryKind::kHugePages:
      break;
  }
  return Backing::kAnonymous;
}

/// Aligned to huge pages within `room`; nullptr with errno.
std::byte* map_memory(MemoryKind kind, void* room, std::size_t bytes) {
  const auto address =
      (reinterpret_cast<std::uintptr_t>(room) + kHugePageBytes) & ~(kHugePageBytes - 1);
  int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
  Fd memfd;
  if (kind == MemoryKind::kMemfd || kind == MemoryKind::kHugetlb) {
    memfd = Fd(::memfd_create("contract", MFD_CLOEXEC | (is_huge(kind) ? MFD_HUGETLB : 0U)));
    if (!memfd || ::ftruncate(memfd.get(), static_cast<off_t>(bytes)) != 0) return nullptr;
    flags = MAP_FIXED | MAP_SHARED;
  }
  void* memory = ::mmap(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE, flags,
                        memfd.get(), 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

}  // namespace

OwnMemory::OwnMemory(MemoryKind kind, std::span<const std::uint64_t> area_pages) {
  for (const std::uint64_t pages : area_pages) {
    if (map(kind, pages)) continue;
    why_not_ = std::string("no such memory here: ") + std::strerror(errno);
    if (kind == MemoryKind::kHugetlb) why_not_ += "; raise /proc/sys/vm/nr_hugepages";
    areas_.clear();
    return;
  }
}

bool OwnMemory::map(MemoryKind kind, std::uint64_t pages) {
  constexpr std::uint64_t kPagesAHuge = kHugePageBytes / kPageSize;
  if (is_huge(kind)) pages = (pages + kPagesAHuge - 1) / kPagesAHuge * kPagesAHuge;
  // Guard pages keep areas from becoming one mapping.
  const std::size_t bytes = pages * kPageSize + 2 * kHugePageBytes;
  void* room =
      ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return false;
  rooms_.emplace_back(static_cast<std::byte*>(room), bytes);
  std::byte* memory = map_memory(kind, room, pages * kPageSize);
  if (memory == nullptr) return false;
  const auto index = static_cast<std::uint32_t>(areas_.size());
  if (kind == MemoryKind::kHugePages) {
    ::madvise(memory, pages * kPageSize, MADV_HUGEPAGE);
    std::memset(memory, 0, pages * kPageSize);
  } else if (kind == MemoryKind::kAnonymous) {
    ::madvise(memory, pages * kPageSize, MADV_NOHUGEPAGE);
  }
  areas_.push_back({{kFirstPage + index * kApart}, pages});
  mapped_.push_back({{{0, index, 0}, areas_.back(), backing_of(kind)}, memory});
  return true;
}

OwnMemory::~OwnMemory() {
  for (const std::span<std::byte> room : rooms_) ::munmap(room.data(), room.size());
}

std::vector<PlacedArea> OwnMemory::placed() const {
  std::vector<PlacedArea> placed;
  for (const MappedRegion& mapped : mapped_)
    placed.push_back({mapped.region.range, mapped.address});
  return placed;
}

std::byte* OwnMemory::at(GuestPage page) const {
  for (const MappedRegion& mapped : mapped_) {
    const PageRange range = mapped.region.range;
    if (range.contains(page)) return mapped.address + (page - range.first) * kPageSize;
  }
  throw std::out_of_range("no such page");
}

Result<std::vector<Region>> OwnMemory::regions() {
  std::vector<Region> regions;
  for (const MappedRegion& mapped : mapped_) regions.push_back(mapped.region);
  return regions;
}

Result<ReadOutcome> OwnMemory::read(const RegionId&, PageRange range, std::span<std::byte> into) {
  std::memcpy(into.data(), at(range.first), range.bytes());
  return ReadOutcome::kRead;
}

std::span<const std::byte> OwnMemory::mapped(const RegionId& region) {
  for (const MappedRegion& mapped : mapped_) {
    if (mapped.region.id == region) {
      return {mapped.address, static_cast<std::size_t>(mapped.region.range.bytes())};
    }
  }
  return {};
}

}  // namespace migrate::testing
