// PageBatch: pages that a lane has taken and that have no place in the image yet.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "checkpoint/aligned_buffer.hpp"
#include "checkpoint/page_index.hpp"

namespace migrate::checkpoint {

/// One lane's.
class PageBatch {
 public:
  /// A RAW block of so many has a head and a table of exactly 4096 bytes.
  static constexpr std::uint32_t kPagesMax =
      (kBlockAlign - kBlockHeadBytes) / kTableEntryBytes;  // 252
  static constexpr std::size_t kBytesMax = std::size_t{kPagesMax} * kPageSize;

  struct Staged {
    PageRecord* record = nullptr;
    PageLocation pending;  // What `record` says until it is settled.
    std::uint64_t page = 0;
    std::uint64_t hash = 0;
    std::uint64_t other = 0;
  };

  /// `lane`: a number that no other batch of the image has.
  explicit PageBatch(std::uint32_t lane) : ticket_(std::uint64_t{lane} << kLaneShift) {}

  /// Empty, of pages of `region`, staged in `memory` (kBytesMax).
  void begin(std::uint16_t region, std::byte* memory);
  [[nodiscard]] std::uint16_t region() const { return region_; }
  [[nodiscard]] bool empty() const { return staged_.empty(); }
  [[nodiscard]] bool full() const { return staged_.size() == kPagesMax; }
  [[nodiscard]] std::span<const Staged> pages() const { return staged_; }
  [[nodiscard]] const std::byte* memory() const { return memory_; }
  [[nodiscard]] const std::byte* content(std::size_t slot) const {
    return memory_ + slot * kPageSize;
  }

  /// Where the next page is to be copied to.
  [[nodiscard]] std::byte* next() const { return memory_ + staged_.size() * kPageSize; }
  /// Keeps what was copied to next().
  void keep(PageRecord* record, std::uint64_t page, std::uint64_t hash, std::uint64_t other);
  /// A page that is equal to the one at next(), which is not kept then.
  [[nodiscard]] std::optional<std::uint32_t> find_equal(std::uint64_t hash) const;
  /// `record`'s page is as the one in `slot`.
  void keep_equal(PageRecord* record, std::uint64_t page, std::uint32_t slot);

  /// Pages ascend, as a table wants them; `spare` (kBytesMax) is where they are then, if they had
  /// to be moved.
  void sort(std::byte* spare);
  /// Moves the pages to `memory` unless they are there.
  void move_to(std::byte* memory);
  /// Some page was added again since it was staged.
  [[nodiscard]] bool has_stale() const;
  /// Leaves those out. Sort then.
  void drop_stale();
  /// Gives all pages their place; `locations` by slot.
  void settle(std::span<const PageLocation> locations);

 private:
  // At most half full.
  static constexpr std::size_t kBuckets = 512;
  // Lanes below and additions above it: more than any image sees.
  static constexpr unsigned kLaneShift = 40;
  struct Equal {
    PageRecord* record;
    PageLocation pending;
    std::uint64_t page;
    std::uint32_t slot;
  };
  std::uint64_t ticket_;
  std::uint16_t region_ = 0;
  std::byte* memory_ = nullptr;
  std::vector<Staged> staged_;
  std::vector<Equal> equal_;
  std::array<std::uint16_t, kBuckets> buckets_{};  // Slot plus 1, by hash. Not after sort().
  bool ascending_ = true;
};

}  // namespace migrate::checkpoint
