// PageIndex: where each page of an image is, while the image is being written.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "checkpoint/image_base.hpp"
#include "checkpoint/image_format.hpp"
#include "migrate/memory.hpp"

namespace migrate::checkpoint {

/// One page. Whoever adds a page sets it, one thread at a time; whoever has staged it meanwhile
/// gives it its place (any thread), unless it has been added again.
class PageRecord {
 public:
  PageRecord() = default;

  /// As in the file's index but for what the lane has only staged: is_pending().
  [[nodiscard]] PageLocation location() const {
    return {location_.load(std::memory_order_relaxed) & ~kDuplicate};
  }
  [[nodiscard]] std::uint64_t hash() const { return hash_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool is_pending() const { return is_pending(location()); }
  [[nodiscard]] static bool is_pending(PageLocation location) {
    return (location.value & kPending) != 0;
  }
  /// Its content is stored for another page.
  [[nodiscard]] bool is_duplicate() const {
    return (location_.load(std::memory_order_relaxed) & kDuplicate) != 0;
  }

  /// What stands for a place until there is one; `ticket` is a batch's own.
  [[nodiscard]] static PageLocation pending(std::uint64_t ticket) { return {kPending | ticket}; }
  void set(PageLocation location, std::uint64_t hash, bool duplicate = false) {
    hash_.store(hash, std::memory_order_relaxed);
    location_.store(location.value | (duplicate ? kDuplicate : 0), std::memory_order_relaxed);
  }
  /// Only if it is still `pending`.
  void settle(PageLocation pending, PageLocation location, bool duplicate) {
    std::uint64_t expected = pending.value;
    location_.compare_exchange_strong(expected, location.value | (duplicate ? kDuplicate : 0),
                                      std::memory_order_relaxed);
  }

 private:
  // No file is so long.
  static constexpr std::uint64_t kPending = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kDuplicate = std::uint64_t{1} << 62;
  std::atomic<std::uint64_t> location_{0};
  std::atomic<std::uint64_t> hash_{0};
};
static_assert(sizeof(PageRecord) == sizeof(IndexEntry));

/// Any thread. Takes memory for the parts (4096 pages) that something was added in only.
class PageIndex {
 public:
  /// `base` may be null, and is kept.
  PageIndex(std::span<const Region> regions, std::shared_ptr<const ImageBase> base,
            std::uint64_t zero_hash);
  ~PageIndex();

  /// A page's record; before it is added it says parent, with the base's hash, or zero where there
  /// is no base or that has no such page. Errors of the base's index; kNoMemory. The page must be
  /// there.
  Result<PageRecord*> at(std::uint16_t region, std::uint64_t page);
  /// What nothing was added in is as in the base, if that has all of it: then nothing is done here.
  Status settle();
  /// Whether the base has the page with this hash.
  Result<bool> is_in_base(std::uint16_t region, std::uint64_t page, std::uint64_t hash) const;
  /// A page that was stored has been stored again: counting takes longer.
  void note_again() { again_.store(true, std::memory_order_relaxed); }

  [[nodiscard]] std::size_t regions() const { return regions_.size(); }
  [[nodiscard]] std::uint64_t pages(std::size_t region) const { return regions_[region].pages; }
  [[nodiscard]] std::size_t parts(std::size_t region) const {
    return regions_[region].parts.size();
  }
  /// How many pages a part has.
  [[nodiscard]] std::uint32_t part_pages(std::size_t region, std::size_t part) const;
  struct Part {
    /// Empty: all pages are as `where`, kAllZero or kAllParent, says.
    std::span<const PageRecord> records;
    std::uint64_t where = Directory::kAllZero;
  };
  [[nodiscard]] Part part(std::size_t region, std::size_t part) const;
  /// Of the whole image, when all has been added.
  [[nodiscard]] Directory::Counts counts() const;

 private:
  using Records = PageRecord[kPagesPerIndex];
  struct RegionParts {
    std::uint64_t pages = 0;
    std::vector<std::atomic<PageRecord*>> parts;
  };
  Result<PageRecord*> make_part(std::uint16_t region, std::size_t part);
  [[nodiscard]] std::uint64_t distinct_locations() const;

  std::shared_ptr<const ImageBase> base_;
  const std::uint64_t zero_hash_;
  std::vector<RegionParts> regions_;
  std::atomic<bool> again_{false};
};

}  // namespace migrate::checkpoint
