// PAGES: a batch of page contents of one region in one round.
//
// Body: batch header (24 bytes), table (16 bytes an entry), content (raw pages back to back in
// table order). Header and table are the checksummed head; content is covered by each page's hash.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "migrate/result.hpp"
#include "wire/hasher.hpp"
#include "wire/ids.hpp"
#include "wire/limits.hpp"
#include "wire/record.hpp"

namespace migrate::wire {

inline constexpr std::size_t kBatchHeaderBytes = 24;
inline constexpr std::size_t kPageEntryBytes = 16;
inline constexpr std::size_t kBatchHeadBytesMax =
    kBatchHeaderBytes + kBatchEntriesMax * kPageEntryBytes;

/// How an entry's pages are carried. Pinned; HELLO and WELCOME agree on the set.
enum class PageEncoding : std::uint8_t {
  kRaw = 1,    ///< One page, kPageSize bytes of content.
  kZeros = 2,  ///< A run of pages that read as zero, no content.
};
/// How a batch's content as a whole is packed. Pinned; agreed like the encodings.
enum class ContentCodec : std::uint8_t { kNone = 0 };

/// Pages are numbered from 0 at the region's first.
struct PageEntry {
  PageEncoding encoding = PageEncoding::kRaw;
  std::uint64_t first = 0;
  std::uint64_t count = 1;  ///< Always 1 for kRaw.
  std::uint64_t hash = 0;   ///< Of the content, kRaw only; zero pages' is PageDigest::zero_hash().
  friend bool operator==(const PageEntry&, const PageEntry&) = default;
};

struct BatchHeader {
  RegionHandle region;
  std::uint32_t round = 0;
  std::uint16_t entries = 0;
  ContentCodec codec = ContentCodec::kNone;
  std::uint32_t content_bytes = 0;
  std::uint64_t pages = 0;  ///< Represented by the batch: raw pages and the lengths of zero runs.

  [[nodiscard]] std::size_t table_bytes() const { return entries * kPageEntryBytes; }
  [[nodiscard]] std::size_t head_bytes() const { return kBatchHeaderBytes + table_bytes(); }
  friend bool operator==(const BatchHeader&, const BatchHeader&) = default;
};

/// First step of reading: the batch header, checked against the record's length. Afterwards
/// head_bytes() and content_bytes may be trusted as bounds. Errors: kProtocol.
[[nodiscard]] Result<BatchHeader> decode_batch_header(
    const RecordHeader& record, std::span<const std::byte, kBatchHeaderBytes> bytes);

/// A checked table; refers to the bytes it was made from.
class PageTableView {
 public:
  [[nodiscard]] std::size_t size() const { return bytes_.size() / kPageEntryBytes; }
  [[nodiscard]] PageEntry operator[](std::size_t index) const;

 private:
  friend Result<PageTableView> decode_page_table(const BatchHeader& batch,
                                                 std::span<const std::byte> table,
                                                 std::uint64_t region_pages);
  explicit PageTableView(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

/// Second step, after check_record() of the head: the table (batch.table_bytes() bytes). Every
/// entry lies in a region of `region_pages` pages; entries ascend and do not overlap, so no page is
/// twice in a batch; counts and lengths agree with the batch header. Errors: kProtocol.
[[nodiscard]] Result<PageTableView> decode_page_table(const BatchHeader& batch,
                                                      std::span<const std::byte> table,
                                                      std::uint64_t region_pages);

/// Builds the head of one PAGES record after another in a buffer of its own; never allocates.
///
///   encoder.begin(region, round);
///   encoder.add_raw(page, hash); ... encoder.add_zeros(first, count); ...
///   auto head = encoder.finish(sequence, hasher);  // then send head and the raw pages' content
///
/// Not thread-safe: one a lane. About 8 KiB.
class PagesEncoder {
 public:
  void begin(RegionHandle region, std::uint32_t round);
  /// Whether another entry may not fit; add_zeros() that continues the last run always does.
  [[nodiscard]] bool full() const { return entries_ == kBatchEntriesMax; }
  [[nodiscard]] bool empty() const { return entries_ == 0; }
  [[nodiscard]] std::uint64_t pages() const { return pages_; }
  [[nodiscard]] std::size_t content_bytes() const { return raw_ * kPageSize; }

  /// Pages must ascend from call to call; not full().
  void add_raw(std::uint64_t page, std::uint64_t hash);
  void add_zeros(std::uint64_t first, std::uint64_t count);

  /// Record header, batch header and table; valid until begin(). Not for an empty batch.
  [[nodiscard]] std::span<const std::byte> finish(std::uint64_t sequence, const Hasher& hasher);

 private:
  void add(PageEncoding encoding, std::uint64_t first, std::uint64_t value);

  std::array<std::byte, kRecordHeaderBytes + kBatchHeadBytesMax> buffer_{};
  RegionHandle region_;
  std::uint32_t round_ = 0;
  std::size_t entries_ = 0;
  std::size_t raw_ = 0;
  std::uint64_t pages_ = 0;
  std::uint64_t next_page_ = 0;  ///< The first page that may come.
  std::uint64_t zero_run_ = 0;   ///< Length of the last entry when it is a run of zeros, else 0.
};

}  // namespace migrate::wire
