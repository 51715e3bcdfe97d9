// Tracking by content, without help from the kernel: the hash of each page as it was last read by
// the migration, and at each collect the hash of what memory holds now.
//
// Hashes are taken from reads, not from one collect to the next. A page that was A, was read when
// it was B, and is A again at the next collect would look clean between collects, while the target
// has B. What counts is what the target was given, so every read has to come through here.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.hpp"
#include "base/random_bytes.hpp"
#include "migrate/trackers.hpp"
#include "wire/hasher.hpp"

namespace migrate {
namespace {

/// Stands in the table for a page that nobody has read since start().
constexpr std::uint64_t kNeverRead = 0;
// 1 MiB stays in the cache between reading and hashing.
constexpr std::uint64_t kChunkPages = 256;

wire::Hasher random_hasher() {
  wire::SessionRandom halves[2];
  for (wire::SessionRandom& half : halves) {
    MIGRATE_CHECK(fill_random(half.bytes).has_value());
  }
  return {halves[0], halves[1]};
}

/// The hashes of one region. `last_read` is written by whoever reads a page and compared by the
/// coordinator; the rest never changes.
class RegionHashes {
 public:
  RegionHashes(const Region& region, const wire::Hasher& hasher)
      : region_(region), hasher_(hasher), last_read_(region.range.count) {}

  [[nodiscard]] const Region& region() const { return region_; }

  [[nodiscard]] std::uint64_t hash(const std::byte* page) const {
    const std::uint64_t hash = hasher_.hash({page, kPageSize});
    return hash == kNeverRead ? kNeverRead + 1 : hash;
  }
  void note_read(PageRange range, const std::byte* content) {
    const std::uint64_t first = range.first - region_.range.first;
    for (std::uint64_t i = 0; i < range.count; ++i) {
      last_read_[first + i].store(hash(content + i * kPageSize));
    }
  }
  [[nodiscard]] std::uint64_t last_read(std::uint64_t page) const { return last_read_[page]; }

 private:
  const Region region_;
  const wire::Hasher hasher_;
  std::vector<std::atomic<std::uint64_t>> last_read_;
};

/// The regions that are tracked, while they are. A read that overlaps a change keeps the entry that
/// it began with, so content of a former region never counts for its successor.
class HashTable {
 public:
  void start() {
    MutexLock lock(mutex_);
    regions_.clear();
    hasher_ = random_hasher();
    tracking_ = true;
  }
  void stop() {
    MutexLock lock(mutex_);
    regions_.clear();
    tracking_ = false;
  }
  [[nodiscard]] bool tracking() {
    MutexLock lock(mutex_);
    return tracking_;
  }

  /// Null for a region that is not tracked.
  [[nodiscard]] std::shared_ptr<RegionHashes> find(const RegionId& region) {
    MutexLock lock(mutex_);
    const auto found = regions_.find(region);
    return found == regions_.end() ? nullptr : found->second;
  }
  /// The entry of `region`: a new one, of pages never read, unless it is there already.
  Result<std::shared_ptr<RegionHashes>> take_in(const Region& region) {
    MutexLock lock(mutex_);
    auto& entry = regions_[region.id];
    if (entry != nullptr && entry->region() == region) return entry;
    try {
      entry = std::make_shared<RegionHashes>(region, hasher_);
    } catch (const std::bad_alloc&) {
      regions_.erase(region.id);
      return make_error(ErrorCode::kNoMemory,
                        "there is no memory for the page hashes of region " + to_text(region.id))
          .advise("free memory (8 bytes a page of the guest), or use another tracker");
    }
    return entry;
  }
  /// While tracking: takes in what is new and forgets what is gone.
  Status follow(std::span<const Region> regions) {
    if (!tracking()) return {};
    for (const Region& region : regions) MIGRATE_TRY(take_in(region));
    MutexLock lock(mutex_);
    std::erase_if(regions_, [&](const auto& entry) {
      return std::none_of(regions.begin(), regions.end(),
                          [&](const Region& region) { return region.id == entry.first; });
    });
    return {};
  }

 private:
  Mutex mutex_;
  std::map<RegionId, std::shared_ptr<RegionHashes>> regions_ MIGRATE_GUARDED_BY(mutex_);
  wire::Hasher hasher_ MIGRATE_GUARDED_BY(mutex_);
  bool tracking_ MIGRATE_GUARDED_BY(mutex_) = false;
};

/// What the migration reads through.
class HashingSource final : public PageSource {
 public:
  HashingSource(PageSource& memory, std::shared_ptr<HashTable> table)
      : memory_(memory), table_(std::move(table)) {}

  Result<std::vector<Region>> regions() override {
    MIGRATE_ASSIGN(auto regions, memory_.regions());
    MIGRATE_TRY(table_->follow(regions));
    return regions;
  }

  /// Notes the copy's hash, not memory's: a torn page has to differ from what memory becomes.
  Result<ReadOutcome> read(const RegionId& region, PageRange range,
                           std::span<std::byte> into) override {
    const auto hashes = table_->find(region);
    MIGRATE_ASSIGN(const ReadOutcome outcome, memory_.read(region, range, into));
    if (outcome == ReadOutcome::kRead && hashes != nullptr &&
        hashes->region().range.contains(range)) {
      hashes->note_read(range, into.data());
    }
    return outcome;
  }

  /// Memory that is read directly is not hashed.
  std::span<const std::byte> mapped(const RegionId&) override { return {}; }

  Status holes(const RegionId& region, PageBitmap& holes) override {
    return memory_.holes(region, holes);
  }

 private:
  PageSource& memory_;
  const std::shared_ptr<HashTable> table_;
};

class ContentHashTracker final : public DirtyTracker {
 public:
  ContentHashTracker(PageSource& memory, std::shared_ptr<HashTable> table)
      : memory_(memory), table_(std::move(table)) {}
  ~ContentHashTracker() override { table_->stop(); }
  ContentHashTracker(const ContentHashTracker&) = delete;
  ContentHashTracker& operator=(const ContentHashTracker&) = delete;

  [[nodiscard]] std::string_view name() const override { return "content-hash"; }
  [[nodiscard]] DirtyCoverage covers() const override {
    return {.guest_cpu = true,
            .kvm = true,
            .kernel = true,
            .vmm = true,
            .other_mappings = true,
            .pinned = true};
  }
  [[nodiscard]] bool rearms_in_collect() const override { return true; }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return {}; }

  Status start() override;
  Status collect(PageBitmap& round_set) override;
  Status rearm(const PageBitmap&, const RegionId&, PageRange) override { return {}; }
  /// Looking costs as much as collecting, so it would save nothing.
  Status peek(PageBitmap&) override { return {}; }
  Status stop() override;

 private:
  Status collect(PageBitmap::Segment& dirty, const PageBitmap::Segment& holes);
  /// Adds the pages of `range` that differ from what was last read.
  Status compare(const RegionHashes& hashes, PageRange range, PageBitmap::Segment& dirty);
  /// The pages of `range` as they are now; empty when they are gone.
  Result<std::span<const std::byte>> content(const RegionId& region, PageRange range);

  PageSource& memory_;
  const std::shared_ptr<HashTable> table_;
  std::vector<std::byte> buffer_;      ///< While tracking.
  std::span<const std::byte> mapped_;  ///< Of the region that is looked at.
  GuestPage mapped_first_;
};

void set_bit(PageBitmap::Segment& segment, std::uint64_t page) {
  segment.words[page / 64] |= std::uint64_t{1} << (page % 64);
}

bool has_bit(const PageBitmap::Segment& segment, std::uint64_t page) {
  return ((segment.words[page / 64] >> (page % 64)) & 1) != 0;
}

Status ContentHashTracker::start() {
  table_->start();
  buffer_.resize(kChunkPages * kPageSize);
  const auto regions = memory_.regions();
  Status followed = regions ? table_->follow(*regions) : Status(regions.error());
  if (!followed) (void)stop();
  return followed;
}

Status ContentHashTracker::stop() {
  table_->stop();
  buffer_ = {};
  return {};
}

// Takes nothing that a failure could lose: only reads change the table.
Status ContentHashTracker::collect(PageBitmap& round_set) {
  if (!table_->tracking()) {
    return make_error(ErrorCode::kInvalidArgument, "collect from a tracker that was not started");
  }
  for (auto& segment : round_set.segments()) {
    PageBitmap holes(std::span(&segment.region, 1));
    MIGRATE_TRY(memory_.holes(segment.region.id, holes));
    MIGRATE_TRY(collect(segment, holes.segments().front()));
  }
  return {};
}

// Holes are not looked at: that would allocate them. Memory begins as zeros at the target, too, so
// a hole that nobody has read is no news; one that was read as something else is.
Status ContentHashTracker::collect(PageBitmap::Segment& dirty, const PageBitmap::Segment& holes) {
  MIGRATE_ASSIGN(const auto hashes, table_->take_in(dirty.region));
  mapped_ = memory_.mapped(dirty.region.id);
  MIGRATE_CHECK(mapped_.empty() || mapped_.size() == dirty.region.range.bytes());
  mapped_first_ = dirty.region.range.first;
  constexpr std::array<std::byte, kPageSize> kZeros{};
  const std::uint64_t zero_hash = hashes->hash(kZeros.data());
  PageRange look{dirty.region.range.first, 0};
  for (std::uint64_t page = 0; page < dirty.region.range.count; ++page) {
    const std::uint64_t last_read = hashes->last_read(page);
    const bool hole = has_bit(holes, page);
    if (!hole && last_read != kNeverRead) {
      if (++look.count < kChunkPages) continue;
    } else if (!hole || (last_read != kNeverRead && last_read != zero_hash)) {
      set_bit(dirty, page);
    }
    if (!look.empty()) MIGRATE_TRY(compare(*hashes, look, dirty));
    look = {dirty.region.range.first + page + 1, 0};
  }
  return look.empty() ? Status{} : compare(*hashes, look, dirty);
}

Status ContentHashTracker::compare(const RegionHashes& hashes, PageRange range,
                                   PageBitmap::Segment& dirty) {
  MIGRATE_ASSIGN(const auto bytes, content(dirty.region.id, range));
  if (bytes.empty()) {
    // Perhaps only some of it: the rest must not be missed.
    for (std::uint64_t i = 0; range.count > 1 && i < range.count; ++i) {
      MIGRATE_TRY(compare(hashes, {range.first + i, 1}, dirty));
    }
    return {};
  }
  const std::uint64_t first = range.first - dirty.region.range.first;
  for (std::uint64_t i = 0; i < range.count; ++i) {
    if (hashes.hash(bytes.data() + i * kPageSize) != hashes.last_read(first + i)) {
      set_bit(dirty, first + i);
    }
  }
  return {};
}

Result<std::span<const std::byte>> ContentHashTracker::content(const RegionId& region,
                                                               PageRange range) {
  if (!mapped_.empty()) {
    return mapped_.subspan((range.first - mapped_first_) * kPageSize, range.bytes());
  }
  const std::span<std::byte> into = std::span(buffer_).first(range.bytes());
  MIGRATE_ASSIGN(const ReadOutcome outcome, memory_.read(region, range, into));
  if (outcome == ReadOutcome::kGone) return std::span<const std::byte>{};
  return std::span<const std::byte>(into);
}

}  // namespace

ContentHashTracking make_content_hash_tracking(PageSource& memory) {
  auto table = std::make_shared<HashTable>();
  return {std::make_unique<HashingSource>(memory, table),
          std::make_unique<ContentHashTracker>(memory, table)};
}

}  // namespace migrate
