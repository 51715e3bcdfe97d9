// LiveMemory's side of the image: memory in order, and copies as they come.
#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "checkpoint/live_memory.hpp"

namespace migrate::checkpoint {

// Half a MiB: what is copied is still in the cache when it is hashed and packed, and its protection
// is lifted by one call.
std::uint64_t LiveMemory::chunk_units(const LiveRegion& region) {
  return std::max<std::uint64_t>(1, LiveRegion::kUnitsTogetherMax / region.unit_pages);
}

bool LiveMemory::next_chunk(Chunk& chunk) {
  for (;;) {
    const std::uint64_t number = cursor_.fetch_add(1, std::memory_order_relaxed);
    if (number >= chunks_before_.back()) return false;
    const auto after = std::upper_bound(chunks_before_.begin(), chunks_before_.end(), number);
    const auto index = static_cast<std::size_t>(after - chunks_before_.begin()) - 1;
    LiveRegion& region = regions_[index];
    const std::uint64_t size = chunk_units(region);
    chunk = {&region, region.around((number - chunks_before_[index]) * size, size)};
    if (region.unclaimed.any(chunk.units.first, chunk.units.count)) return true;
  }
}

Status LiveMemory::save(const Add& add) {
  const std::uint64_t room = std::max<std::uint64_t>(copy_pages_, LiveRegion::kUnitsTogetherMax);
  const std::unique_ptr<std::byte[]> staging(new (std::nothrow) std::byte[room * kPageSize]);
  if (staging == nullptr) return make_error(ErrorCode::kNoMemory, "out of memory");
  for (;;) {
    MIGRATE_TRY(failure());
    // Copies first: while they lie here their room is missing to the guest.
    PageCopy* copy = pool_->take();
    Chunk chunk;
    if (copy == nullptr && next_chunk(chunk)) {
      MIGRATE_TRY(save_chunk(chunk, {staging.get(), room * kPageSize}, add));
      continue;
    }
    if (copy == nullptr) copy = pool_->take_last();
    // Nobody copies any more: all is claimed, or is going to be by those who still have a chunk.
    if (copy == nullptr) return failure();
    Status saved = save_copy(*copy, add);
    pool_->release(copy);
    MIGRATE_TRY(std::move(saved));
  }
}

Status LiveMemory::save_chunk(const Chunk& chunk, std::span<std::byte> staging, const Add& add) {
  LiveRegion& region = *chunk.region;
  Claimed claimed;
  for (std::uint64_t i = 0; i < chunk.units.count; ++i) {
    if (region.unclaimed.clear(chunk.units.first + i)) claimed.set(i);
  }
  if (claimed.none()) return {};
  // Copied, so that the guest does not wait for an image that is written slowly.
  const std::uint64_t first = chunk.units.first * region.unit_pages;
  const std::uint64_t end = chunk.units.end() * region.unit_pages;
  const auto is_mine = [&](std::uint64_t page) {
    return claimed.test((page - first) / region.unit_pages) &&
           (region.pages->words[page / 64] >> (page % 64) & 1) != 0;
  };
  for (std::uint64_t page = first; page < end; ++page) {
    if (!is_mine(page)) continue;
    std::memcpy(staging.data() + (page - first) * kPageSize, region.memory + page * kPageSize,
                kPageSize);
  }
  if (Status opened = open_up(region, chunk.units, claimed); !opened) {
    fail(opened.error());
    return opened;
  }
  for (std::uint64_t page = first; page < end; ++page) {
    if (!is_mine(page)) continue;
    MIGRATE_TRY(add(region.index, page, staging.data() + (page - first) * kPageSize));
    saved_.fetch_add(1, std::memory_order_relaxed);
  }
  return {};
}

Status LiveMemory::save_copy(const PageCopy& copy, const Add& add) {
  for (std::size_t word = 0; word < copy.pages.size(); ++word) {
    for (std::uint64_t bits = copy.pages[word]; bits != 0; bits &= bits - 1) {
      const std::uint64_t at = word * 64 + static_cast<unsigned>(std::countr_zero(bits));
      MIGRATE_TRY(add(copy.region, copy.first + at, copy.bytes + at * kPageSize));
      saved_.fetch_add(1, std::memory_order_relaxed);
    }
  }
  return {};
}

}  // namespace migrate::checkpoint
