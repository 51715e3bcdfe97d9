#include "checkpoint/standing_memory.hpp"

#include <algorithm>

namespace migrate::checkpoint {
namespace {

/// A lane takes so many at a time: 1 MiB.
constexpr std::uint64_t kChunkPages = 256;

}  // namespace

StandingMemory::StandingMemory(PageSource& source, const PageBitmap& pages)
    : source_(source), pages_(pages) {
  chunks_before_.push_back(0);
  for (const auto& segment : pages.segments()) {
    const Region& region = segment.region;
    const auto mapped = source.mapped(region.id);
    mapped_.push_back(mapped.size() >= region.range.bytes() ? mapped
                                                            : std::span<const std::byte>());
    chunks_before_.push_back(chunks_before_.back() +
                             (region.range.count + kChunkPages - 1) / kChunkPages);
  }
}

Status StandingMemory::save(const Add& add) {
  std::vector<std::byte> staging;
  for (;;) {
    const std::uint64_t number = cursor_.fetch_add(1, std::memory_order_relaxed);
    if (number >= chunks_before_.back()) return {};
    const auto after = std::upper_bound(chunks_before_.begin(), chunks_before_.end(), number);
    const auto region = static_cast<std::size_t>(after - chunks_before_.begin()) - 1;
    const PageRange all = pages_.segments()[region].region.range;
    const std::uint64_t first = (number - chunks_before_[region]) * kChunkPages;
    MIGRATE_TRY(save_chunk(region, {all.first + first, std::min(kChunkPages, all.count - first)},
                           staging, add));
  }
}

Status StandingMemory::save_chunk(std::size_t region, PageRange range,
                                  std::vector<std::byte>& staging, const Add& add) {
  const auto& segment = pages_.segments()[region];
  const GuestPage base = segment.region.range.first;
  for (PageRange run = next_run(segment, range.first, range.end()); !run.empty();
       run = next_run(segment, run.end(), range.end())) {
    const std::byte* content = nullptr;
    if (!mapped_[region].empty()) {
      content = mapped_[region].data() + (run.first - base) * kPageSize;
    } else {
      staging.resize(run.bytes());
      MIGRATE_ASSIGN(const ReadOutcome outcome,
                     source_.read(segment.region.id, run, {staging.data(), run.bytes()}));
      if (outcome == ReadOutcome::kGone) {
        return make_error(ErrorCode::kGuest, "memory of region " + to_text(segment.region.id) +
                                                 " went away while the guest stood");
      }
      content = staging.data();
    }
    for (std::uint64_t i = 0; i < run.count; ++i) {
      MIGRATE_TRY(
          add(static_cast<std::uint16_t>(region), run.first - base + i, content + i * kPageSize));
    }
    saved_.fetch_add(run.count, std::memory_order_relaxed);
  }
  return {};
}

}  // namespace migrate::checkpoint
