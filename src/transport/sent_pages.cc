#include "transport/sent_pages.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace migrate {
namespace {

std::uint64_t spread(std::uint32_t handle, std::uint64_t page) {
  // Fibonacci hashing: neighbours are far apart.
  return (page + (std::uint64_t{handle} << 40)) * 0x9e3779b97f4a7c15u;
}

}  // namespace

SentPages::SentPages(std::size_t bytes) {
  const std::size_t sets = bytes / (kWays * kPageSize);
  if (sets == 0) return;
  contents_bytes_ = sets * kWays * kPageSize;
  void* const memory = ::mmap(nullptr, contents_bytes_, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  // Without it, deltas are not used.
  if (memory == MAP_FAILED) return;
  contents_ = static_cast<std::byte*>(memory);
  places_.resize(sets * kWays);
}

SentPages::~SentPages() {
  if (contents_ != nullptr) ::munmap(contents_, contents_bytes_);
}

SentPages::Place* SentPages::find(std::size_t set, std::uint32_t handle, std::uint64_t page) {
  for (std::size_t way = 0; way < kWays; ++way) {
    Place& place = places_[set * kWays + way];
    if (place.used && place.handle == handle && place.page == page) return &place;
  }
  return nullptr;
}

SentPages::Place* SentPages::make_room(std::size_t set, std::uint32_t round) {
  Place* oldest = nullptr;
  for (std::size_t way = 0; way < kWays; ++way) {
    Place& place = places_[set * kWays + way];
    if (!place.used) return &place;
    if (oldest == nullptr || place.round < oldest->round) oldest = &place;
  }
  return oldest->round + 1 < round ? oldest : nullptr;
}

std::span<std::byte, kPageSize> SentPages::content_of(const Place& place) {
  const auto index = static_cast<std::size_t>(&place - places_.data());
  return std::span<std::byte, kPageSize>(contents_ + index * kPageSize, kPageSize);
}

std::size_t SentPages::replace(std::uint32_t handle, std::uint64_t page,
                               std::span<const std::byte, kPageSize> content, std::uint64_t hash,
                               std::uint64_t known, std::uint32_t round,
                               std::span<std::byte, wire::kDeltaPaysBytes> into) {
  if (places_.empty()) return 0;
  const std::size_t set = (spread(handle, page) >> 20) % (places_.size() / kWays);
  MutexLock lock(locks_[set % kLocks]);
  std::size_t delta = 0;
  Place* place = find(set, handle, page);
  if (place != nullptr) {
    // Sent in another way since it was kept, or void: the target has something else.
    if (place->hash == known) delta = wire::encode_delta(content_of(*place), content, into);
  } else {
    place = make_room(set, round);
    if (place == nullptr) return 0;
  }
  *place = {page, hash, handle, round, true};
  std::memcpy(content_of(*place).data(), content.data(), kPageSize);
  return delta;
}

}  // namespace migrate
