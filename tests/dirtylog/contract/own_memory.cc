#include "tests/dirtylog/contract/own_memory.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace migrate::testing {
namespace {

constexpr std::uint64_t kHugePageBytes = OwnMemory::kPagesAHuge * kPageSize;
/// Not a multiple of 64, and far from the next area's.
constexpr std::uint64_t kFirstPage = 1000;
constexpr std::uint64_t kApart = 100'000;

bool is_huge(MemoryKind kind) {
  return kind == MemoryKind::kHugePages || kind == MemoryKind::kHugetlb;
}

bool has_memfd(MemoryKind kind) {
  return kind == MemoryKind::kMemfd || kind == MemoryKind::kHugetlb;
}

std::uint64_t whole_huge(std::uint64_t pages) {
  constexpr std::uint64_t kHuge = OwnMemory::kPagesAHuge;
  return (pages + kHuge - 1) / kHuge * kHuge;
}

Backing backing_of(MemoryKind kind) {
  if (kind == MemoryKind::kHugetlb) return Backing::kHugetlb;
  return has_memfd(kind) ? Backing::kMemfd : Backing::kAnonymous;
}

std::byte* map_at(std::byte* place, std::size_t bytes, int memfd) {
  const int flags = memfd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* memory =
      ::mmap(place, bytes, PROT_READ | PROT_WRITE, flags | (place ? MAP_FIXED : 0), memfd, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

}  // namespace

OwnMemory::OwnMemory(MemoryKind kind, std::span<const std::uint64_t> area_pages) {
  if (kind == MemoryKind::kHugetlb) {
    std::uint64_t huge_pages = 0;
    for (const std::uint64_t pages : area_pages) huge_pages += whole_huge(pages) / kPagesAHuge;
    reserved_.emplace(huge_pages);
    why_not_ = reserved_->why_not();
    if (!why_not_.empty()) return;
  }
  for (const std::uint64_t pages : area_pages) {
    if (map(kind, pages)) continue;
    why_not_ = std::string("no such memory here: ") + std::strerror(errno);
    areas_.clear();
    return;
  }
}

bool OwnMemory::map(MemoryKind kind, std::uint64_t pages) {
  if (is_huge(kind)) pages = whole_huge(pages);
  const std::size_t bytes = pages * kPageSize;
  Fd memfd;
  if (has_memfd(kind)) {
    memfd = Fd(::memfd_create("contract", MFD_CLOEXEC | (is_huge(kind) ? MFD_HUGETLB : 0U)));
    if (!memfd || ::ftruncate(memfd.get(), static_cast<off_t>(bytes)) != 0) return false;
  }
  // Guard pages keep areas from becoming one mapping.
  const std::size_t room_bytes = bytes + 2 * kHugePageBytes;
  void* room =
      ::mmap(nullptr, room_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return false;
  rooms_.emplace_back(static_cast<std::byte*>(room), room_bytes);
  const std::uintptr_t aligned =
      (reinterpret_cast<std::uintptr_t>(room) + kHugePageBytes) & ~(kHugePageBytes - 1);
  std::byte* memory = map_at(reinterpret_cast<std::byte*>(aligned), bytes, memfd.get());
  if (memory == nullptr) return false;
  if (kind == MemoryKind::kAnonymous) ::madvise(memory, bytes, MADV_NOHUGEPAGE);
  if (kind == MemoryKind::kHugePages) {
    ::madvise(memory, bytes, MADV_HUGEPAGE);
    std::memset(memory, 0, bytes);
  }
  const auto index = static_cast<std::uint32_t>(areas_.size());
  const PageRange range{{kFirstPage + index * kApart}, pages};
  areas_.push_back({{{0, index, 0}, range, backing_of(kind)}, memory});
  memfds_.push_back(std::move(memfd));
  return true;
}

std::vector<std::byte*> OwnMemory::map_again() {
  std::vector<std::byte*> aliases;
  for (std::size_t i = 0; i < areas_.size(); ++i) {
    const auto bytes = static_cast<std::size_t>(areas_[i].region.range.bytes());
    std::byte* alias = map_at(nullptr, bytes, memfds_[i].get());
    if (alias == nullptr) throw std::runtime_error("a memfd cannot be mapped again");
    rooms_.emplace_back(alias, bytes);
    aliases.push_back(alias);
  }
  return aliases;
}

OwnMemory::~OwnMemory() {
  for (const std::span<std::byte> room : rooms_) ::munmap(room.data(), room.size());
}

}  // namespace migrate::testing
