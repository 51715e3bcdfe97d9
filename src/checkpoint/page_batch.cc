#include "checkpoint/page_batch.hpp"

#include <algorithm>
#include <numeric>

namespace migrate::checkpoint {
namespace {

template <typename Page>
bool is_stale(const Page& page) {
  return page.record->location() != page.pending;
}

}  // namespace

void PageBatch::begin(std::uint16_t region, std::byte* memory) {
  region_ = region;
  memory_ = memory;
  staged_.clear();
  staged_.reserve(kPagesMax);
  equal_.clear();
  buckets_.fill(0);
  ascending_ = true;
}

void PageBatch::keep(PageRecord* record, std::uint64_t page, std::uint64_t hash,
                     std::uint64_t other) {
  const PageLocation pending = PageRecord::pending(ticket_++);
  ascending_ = ascending_ && (staged_.empty() || staged_.back().page < page);
  std::size_t bucket = hash % kBuckets;
  while (buckets_[bucket] != 0) bucket = (bucket + 1) % kBuckets;
  staged_.push_back({record, pending, page, hash, other});
  buckets_[bucket] = static_cast<std::uint16_t>(staged_.size());
  record->set(pending, hash);
}

std::optional<std::uint32_t> PageBatch::find_equal(std::uint64_t hash) const {
  for (std::size_t bucket = hash % kBuckets; buckets_[bucket] != 0;
       bucket = (bucket + 1) % kBuckets) {
    const std::uint32_t slot = buckets_[bucket] - 1u;
    if (staged_[slot].hash == hash && std::memcmp(content(slot), next(), kPageSize) == 0) {
      return slot;
    }
  }
  return std::nullopt;
}

void PageBatch::keep_equal(PageRecord* record, std::uint64_t page, std::uint32_t slot) {
  const PageLocation pending = PageRecord::pending(ticket_++);
  equal_.push_back({record, pending, page, slot});
  record->set(pending, staged_[slot].hash);
}

void PageBatch::sort(std::byte* spare) {
  if (ascending_) return;
  std::vector<std::uint32_t> order(staged_.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [this](std::uint32_t a, std::uint32_t b) { return staged_[a].page < staged_[b].page; });
  std::vector<Staged> sorted;
  sorted.reserve(kPagesMax);
  std::vector<std::uint32_t> now_at(staged_.size());
  for (const std::uint32_t slot : order) {
    now_at[slot] = static_cast<std::uint32_t>(sorted.size());
    std::memcpy(spare + sorted.size() * kPageSize, content(slot), kPageSize);
    sorted.push_back(staged_[slot]);
  }
  for (Equal& equal : equal_) equal.slot = now_at[equal.slot];
  staged_ = std::move(sorted);
  memory_ = spare;
  ascending_ = true;
}

void PageBatch::move_to(std::byte* memory) {
  if (memory == memory_) return;
  std::memcpy(memory, memory_, staged_.size() * kPageSize);
  memory_ = memory;
}

bool PageBatch::has_stale() const {
  return std::any_of(staged_.begin(), staged_.end(),
                     [](const Staged& one) { return is_stale(one); });
}

void PageBatch::drop_stale() {
  std::erase_if(equal_, [](const Equal& equal) { return is_stale(equal); });
  std::vector<std::uint32_t> now_at(staged_.size());
  std::uint32_t kept = 0;
  for (std::uint32_t slot = 0; slot < staged_.size(); ++slot) {
    Staged one = staged_[slot];
    if (is_stale(one)) {
      // The content may still be another page's.
      const auto heir = std::find_if(equal_.begin(), equal_.end(),
                                     [slot](const Equal& equal) { return equal.slot == slot; });
      if (heir == equal_.end()) continue;
      one.record = heir->record;
      one.pending = heir->pending;
      one.page = heir->page;
      heir->slot = kPagesMax;
      ascending_ = false;
    }
    if (kept != slot) std::memcpy(memory_ + kept * kPageSize, content(slot), kPageSize);
    now_at[slot] = kept;
    staged_[kept++] = one;
  }
  staged_.resize(kept);
  std::erase_if(equal_, [](const Equal& equal) { return equal.slot == kPagesMax; });
  for (Equal& equal : equal_) equal.slot = now_at[equal.slot];
}

void PageBatch::settle(std::span<const PageLocation> locations) {
  MIGRATE_CHECK(locations.size() == staged_.size());
  for (std::size_t slot = 0; slot < staged_.size(); ++slot) {
    staged_[slot].record->settle(staged_[slot].pending, locations[slot], false);
  }
  for (const Equal& equal : equal_) {
    equal.record->settle(equal.pending, locations[equal.slot], true);
  }
}

}  // namespace migrate::checkpoint
