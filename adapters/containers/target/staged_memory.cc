#include "adapters/containers/target/staged_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

namespace migrate::containers {
namespace {

constexpr std::uint64_t kHugeBytes = 2u << 20;
/// Addresses, not memory: many small regions for each mapping.
constexpr std::uint64_t kArenaBytes = 256u << 20;
/// Addresses of processes end at 2^56 with five levels of page tables.
constexpr std::uint64_t kPagesEnd = (std::uint64_t{1} << 56) / kPageSize;

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

Error hostile(const Region& region, const std::string& why) {
  return make_error(ErrorCode::kProtocol, "region " + to_text(region.id) + " " + why);
}

Error no_memory(std::uint64_t bytes, int error) {
  return make_errno_error(ErrorCode::kNoMemory, error,
                          std::to_string(bytes >> 20) + " MiB for the tree's memory cannot be had")
      .advise("free memory on this host, or raise the limits of this process (ulimit -v)");
}

}  // namespace

Result<std::unique_ptr<StagedMemory>> StagedMemory::create() {
  Fd memfd(::memfd_create("migrate-tree", MFD_CLOEXEC));
  if (!memfd) return make_errno_error(ErrorCode::kIo, errno, "cannot make memory for the tree");
  return std::unique_ptr<StagedMemory>(new StagedMemory(std::move(memfd)));
}

StagedMemory::~StagedMemory() {
  for (const auto& arena : arenas_) ::munmap(arena->base, arena->bytes);
}

Status StagedMemory::update_regions(const RegionDelta& delta) {
  for (const RegionId& id : delta.removed) MIGRATE_TRY(remove(id));
  for (const Region& region : delta.added) {
    // What the description told already, the engine tells again.
    const auto found = places_.find(region.id);
    if (found != places_.end() && found->second.range == region.range) continue;
    MIGRATE_TRY(check_new(region));
    MIGRATE_TRY(add(region));
  }
  return {};
}

Status StagedMemory::check_new(const Region& region) const {
  const PageRange& range = region.range;
  if (places_.contains(region.id)) return hostile(region, "is there already, elsewhere");
  if (range.count == 0 || range.first.number >= kPagesEnd ||
      range.count > kPagesEnd - range.first.number) {
    return hostile(region, "is at no address of a process");
  }
  const auto next = order_.lower_bound({region.id.space, range.first.number});
  const auto overlaps = [&](auto at) {
    if (at->first.first != region.id.space) return false;
    const PageRange& other = places_.at(at->second).range;
    return other.first < range.end() && range.first < other.end();
  };
  if ((next != order_.end() && overlaps(next)) ||
      (next != order_.begin() && overlaps(std::prev(next)))) {
    return hostile(region, "overlaps another one of its process");
  }
  return {};
}

Result<StagedMemory::Arena*> StagedMemory::arena_for(std::uint64_t bytes, bool huge) {
  const std::uint64_t room = huge ? round_up(bytes, kHugeBytes) : bytes;
  if (!arenas_.empty()) {
    for (auto it = arenas_.rbegin(); it != arenas_.rend(); ++it) {
      Arena& arena = **it;
      if (arena.huge != huge) continue;
      if (arena.bytes - arena.used >= room) return &arena;
      break;  // Only the latest of a kind has room worth looking for.
    }
  }
  auto arena = std::make_unique<Arena>();
  arena->bytes = std::max(kArenaBytes, round_up(room, kHugeBytes));
  arena->offset = next_offset_;
  arena->huge = huge;
  if (::ftruncate(memfd_.get(), static_cast<off_t>(next_offset_ + arena->bytes)) != 0) {
    return no_memory(bytes, errno);
  }
  // More than is needed, to lie as huge pages want it.
  void* addresses = ::mmap(nullptr, arena->bytes + kHugeBytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (addresses == MAP_FAILED) return no_memory(bytes, errno);
  auto* const first = static_cast<std::byte*>(addresses);
  const auto number = reinterpret_cast<std::uintptr_t>(addresses);
  std::byte* const base = first + (round_up(number, kHugeBytes) - number);
  void* made =
      ::mmap(base, arena->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
             memfd_.get(), static_cast<off_t>(arena->offset));
  const int error = errno;
  if (base > first) ::munmap(first, static_cast<std::size_t>(base - first));
  std::byte* const end = base + arena->bytes;
  ::munmap(end, static_cast<std::size_t>(first + arena->bytes + kHugeBytes - end));
  if (made == MAP_FAILED) {
    ::munmap(base, arena->bytes);
    return no_memory(bytes, error);
  }
  // Advice: without huge pages it is as right.
  if (huge) (void)::madvise(base, arena->bytes, MADV_HUGEPAGE);
  arena->base = base;
  next_offset_ += arena->bytes;
  arenas_.push_back(std::move(arena));
  return arenas_.back().get();
}

Status StagedMemory::add(const Region& region) {
  const std::uint64_t bytes = region.range.bytes();
  const bool huge = bytes >= kHugeBytes;
  MIGRATE_ASSIGN(Arena * arena, arena_for(bytes, huge));
  Place place{region.range, region.backing, arena, arena->offset + arena->used,
              arena->base + arena->used};
  arena->used += huge ? round_up(bytes, kHugeBytes) : bytes;
  ++arena->regions;
  places_.emplace(region.id, place);
  order_.emplace(std::pair(region.id.space, region.range.first.number), region.id);
  return {};
}

Status StagedMemory::remove(const RegionId& region) {
  const auto found = places_.find(region);
  if (found == places_.end()) {
    return make_error(ErrorCode::kProtocol, "there is no region " + to_text(region) + " to go");
  }
  const Place place = found->second;
  // Fresh memory reads as zero, and what is gone takes no memory.
  if (::fallocate(memfd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(place.offset), static_cast<off_t>(place.range.bytes())) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "the memory of a region cannot be given back");
  }
  order_.erase({region.space, place.range.first.number});
  places_.erase(found);
  if (--place.arena->regions > 0) return {};
  ::munmap(place.arena->base, place.arena->bytes);
  std::erase_if(arenas_, [&](const auto& arena) { return arena.get() == place.arena; });
  return {};
}

Result<std::span<std::byte>> StagedMemory::memory(const RegionId& region, PageRange range) const {
  const auto found = places_.find(region);
  if (found == places_.end() || !found->second.range.contains(range)) {
    return make_error(ErrorCode::kInvalidArgument, "pages " + std::to_string(range.first.number) +
                                                       " to " + std::to_string(range.end().number) +
                                                       " are not in region " + to_text(region));
  }
  const std::uint64_t skipped = (range.first - found->second.range.first) * kPageSize;
  return std::span(found->second.host + skipped, range.bytes());
}

Status StagedMemory::write(const RegionId& region, PageRange range,
                           std::span<const std::byte> bytes) {
  MIGRATE_ASSIGN(const auto into, memory(region, range));
  if (bytes.size() != into.size()) {
    return make_error(ErrorCode::kInvalidArgument, "bytes and pages do not match");
  }
  std::memcpy(into.data(), bytes.data(), bytes.size());
  return {};
}

Status StagedMemory::zero(const RegionId& region, PageRange range) {
  MIGRATE_ASSIGN(const auto pages, memory(region, range));
  const Place& place = places_.at(region);
  const std::uint64_t offset = place.offset + static_cast<std::uint64_t>(pages.data() - place.host);
  if (::fallocate(memfd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(offset), static_cast<off_t>(pages.size())) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "the tree's memory cannot be made zero");
  }
  return {};
}

Status StagedMemory::read(const RegionId& region, PageRange range, std::span<std::byte> into) {
  MIGRATE_ASSIGN(const auto from, memory(region, range));
  if (into.size() != from.size()) {
    return make_error(ErrorCode::kInvalidArgument, "bytes and pages do not match");
  }
  std::memcpy(into.data(), from.data(), from.size());
  return {};
}

std::span<std::byte> StagedMemory::mapped(const RegionId& region) {
  const auto found = places_.find(region);
  if (found == places_.end()) return {};
  return {found->second.host, found->second.range.bytes()};
}

void StagedMemory::drop_content() noexcept {
  if (next_offset_ == 0) return;
  (void)::fallocate(memfd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    static_cast<off_t>(next_offset_));
}

std::vector<StagedRegion> StagedMemory::regions() const {
  std::vector<StagedRegion> regions;
  regions.reserve(order_.size());
  for (const auto& [key, id] : order_) {
    const Place& place = places_.at(id);
    regions.push_back({{id, place.range, place.backing}, place.offset, place.host});
  }
  return regions;
}

std::byte* StagedMemory::at(std::uint64_t offset) const {
  for (const auto& arena : arenas_) {
    if (offset >= arena->offset && offset - arena->offset < arena->bytes) {
      return arena->base + (offset - arena->offset);
    }
  }
  return nullptr;
}

}  // namespace migrate::containers
