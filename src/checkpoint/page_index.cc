#include "checkpoint/page_index.hpp"

#include <algorithm>
#include <array>

#include "base/guarded.hpp"

namespace migrate::checkpoint {

PageIndex::PageIndex(std::span<const Region> regions, std::shared_ptr<const ImageBase> base,
                     std::uint64_t zero_hash)
    : base_(std::move(base)), zero_hash_(zero_hash) {
  regions_.reserve(regions.size());
  for (const Region& region : regions) {
    const std::uint64_t pages = region.range.count;
    regions_.push_back({pages, std::vector<std::atomic<PageRecord*>>((pages + kPagesPerIndex - 1) /
                                                                     kPagesPerIndex)});
  }
}

PageIndex::~PageIndex() {
  for (RegionParts& region : regions_) {
    for (std::atomic<PageRecord*>& part : region.parts) delete[] part.load();
  }
}

std::uint32_t PageIndex::part_pages(std::size_t region, std::size_t part) const {
  return static_cast<std::uint32_t>(
      std::min(kPagesPerIndex, regions_[region].pages - part * kPagesPerIndex));
}

Result<PageRecord*> PageIndex::at(std::uint16_t region, std::uint64_t page) {
  MIGRATE_CHECK(region < regions_.size() && page < regions_[region].pages);
  const std::size_t number = page / kPagesPerIndex;
  PageRecord* part = regions_[region].parts[number].load(std::memory_order_acquire);
  if (part == nullptr) {
    MIGRATE_ASSIGN(part, make_part(region, number));
  }
  return part + page % kPagesPerIndex;
}

Result<PageRecord*> PageIndex::make_part(std::uint16_t region, std::size_t part) {
  return guarded([&]() -> Result<PageRecord*> {
    const std::uint32_t count = part_pages(region, part);
    auto made = std::make_unique<PageRecord[]>(count);
    if (base_) {
      std::vector<std::uint64_t> hashes(count);
      MIGRATE_TRY(base_->hashes(region, part * kPagesPerIndex, hashes));
      for (std::uint32_t i = 0; i < count; ++i) {
        const bool there = hashes[i] != wire::PageDigest::kVoid;
        made[i].set(there ? PageLocation::parent() : PageLocation::zero(),
                    there ? hashes[i] : zero_hash_);
      }
    } else {
      for (std::uint32_t i = 0; i < count; ++i) made[i].set(PageLocation::zero(), zero_hash_);
    }
    PageRecord* there = nullptr;
    if (regions_[region].parts[part].compare_exchange_strong(there, made.get(),
                                                             std::memory_order_acq_rel)) {
      there = made.release();
    }
    return there;
  });
}

Status PageIndex::settle() {
  if (!base_ || base_->same_layout()) return {};
  for (std::size_t region = 0; region < regions(); ++region) {
    for (std::size_t number = 0; number < parts(region); ++number) {
      MIGRATE_TRY(at(static_cast<std::uint16_t>(region), number * kPagesPerIndex));
    }
  }
  return {};
}

Result<bool> PageIndex::is_in_base(std::uint16_t region, std::uint64_t page,
                                   std::uint64_t hash) const {
  if (!base_) return false;
  std::array<std::uint64_t, 1> there{};
  MIGRATE_TRY(base_->hashes(region, page, there));
  return there[0] == hash;
}

PageIndex::Part PageIndex::part(std::size_t region, std::size_t part) const {
  const PageRecord* const records = regions_[region].parts[part].load(std::memory_order_acquire);
  if (records == nullptr) {
    return {{}, base_ ? Directory::kAllParent : Directory::kAllZero};
  }
  const std::span<const PageRecord> all(records, part_pages(region, part));
  const std::uint64_t first = all.front().location().value;
  const bool same = first <= Directory::kAllParent &&
                    std::all_of(all.begin(), all.end(), [first](const PageRecord& record) {
                      return record.location().value == first;
                    });
  if (same) return {{}, first};
  return {all, 0};
}

Directory::Counts PageIndex::counts() const {
  Directory::Counts counts;
  for (std::size_t region = 0; region < regions(); ++region) {
    for (std::size_t number = 0; number < parts(region); ++number) {
      const Part one = part(region, number);
      if (one.records.empty()) {
        const bool zero = one.where == Directory::kAllZero;
        (zero ? counts.zero : counts.parent) += part_pages(region, number);
        continue;
      }
      for (const PageRecord& record : one.records) {
        const PageLocation location = record.location();
        if (location.is_zero()) {
          ++counts.zero;
        } else if (location.is_parent()) {
          ++counts.parent;
        } else {
          ++(record.is_duplicate() ? counts.duplicate : counts.stored);
        }
      }
    }
  }
  if (again_) {
    // Which of equal pages was first may have been written again since.
    const std::uint64_t all = counts.stored + counts.duplicate;
    counts.stored = distinct_locations();
    counts.duplicate = all - counts.stored;
  }
  return counts;
}

std::uint64_t PageIndex::distinct_locations() const {
  std::vector<std::uint64_t> locations;
  for (std::size_t region = 0; region < regions(); ++region) {
    for (std::size_t number = 0; number < parts(region); ++number) {
      for (const PageRecord& record : part(region, number).records) {
        if (record.location().is_stored()) locations.push_back(record.location().value);
      }
    }
  }
  std::sort(locations.begin(), locations.end());
  return static_cast<std::uint64_t>(std::unique(locations.begin(), locations.end()) -
                                    locations.begin());
}

}  // namespace migrate::checkpoint
