// PAGES: a batch of page contents of one region in one round.
//
// Body: batch header (24 bytes), table (16 bytes an entry), content (raw pages back to back in
// table order, then the patches of deltas and duplicates; as one zstd frame when it is packed).
// Header and table are the checksummed head; content is covered by each page's hash. The content's
// inside is page_content.hpp's, delta.hpp's and packing.hpp's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

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
  kRaw = 1,        ///< One page, kPageSize bytes of content.
  kZeros = 2,      ///< A run of pages that read as zero, no content.
  kDelta = 3,      ///< One page, changed from what it was at the last barrier: a patch.
  kDuplicate = 4,  ///< One page, equal to one that the target has: a patch that names it.
};
/// How a batch's content as a whole is packed. Pinned; agreed like the encodings.
enum class ContentCodec : std::uint8_t { kNone = 0, kZstd = 1 };

/// Sets of PageEncoding and ContentCodec as HELLO and WELCOME have them.
[[nodiscard]] constexpr std::uint32_t set_of(PageEncoding encoding) {
  return 1u << static_cast<unsigned>(encoding);
}
[[nodiscard]] constexpr std::uint32_t set_of(ContentCodec codec) {
  return 1u << static_cast<unsigned>(codec);
}
/// Every peer has these.
inline constexpr std::uint32_t kEncodingsBase =
    set_of(PageEncoding::kRaw) | set_of(PageEncoding::kZeros);
inline constexpr std::uint32_t kCodecsBase = set_of(ContentCodec::kNone);
/// This version's.
inline constexpr std::uint32_t kEncodingsKnown =
    kEncodingsBase | set_of(PageEncoding::kDelta) | set_of(PageEncoding::kDuplicate);
inline constexpr std::uint32_t kCodecsKnown = kCodecsBase | set_of(ContentCodec::kZstd);

/// What WELCOME has agreed to; a reader refuses the rest.
struct AgreedContent {
  std::uint32_t encodings = kEncodingsBase;
  std::uint32_t codecs = kCodecsBase;
};

/// A patch is a length (u16) and so many bytes, kPageSize together at most: no entry has more
/// content than a raw page.
inline constexpr std::size_t kPatchLengthBytes = 2;
inline constexpr std::size_t kDeltaBytesMax = kPageSize - kPatchLengthBytes;
inline constexpr std::size_t kDuplicateBytes = 12;

/// Pages are numbered from 0 at the region's first.
struct PageEntry {
  PageEncoding encoding = PageEncoding::kRaw;
  std::uint64_t first = 0;
  std::uint64_t count = 1;  ///< Always 1 but for kZeros.
  std::uint64_t hash = 0;   ///< Of the page as it is to be; of kZeros PageDigest::zero_hash().
  friend bool operator==(const PageEntry&, const PageEntry&) = default;
};

struct BatchHeader {
  RegionHandle region;
  std::uint32_t round = 0;
  std::uint16_t entries = 0;
  ContentCodec codec = ContentCodec::kNone;
  std::uint32_t content_bytes = 0;
  std::uint64_t pages = 0;  ///< Represented by the batch: single pages and the lengths of runs.

  [[nodiscard]] std::size_t table_bytes() const { return entries * kPageEntryBytes; }
  [[nodiscard]] std::size_t head_bytes() const { return kBatchHeaderBytes + table_bytes(); }
  friend bool operator==(const BatchHeader&, const BatchHeader&) = default;
};

/// First step of reading: the batch header, checked against the record's length. Afterwards
/// head_bytes() and content_bytes may be trusted as bounds. Errors: kProtocol.
[[nodiscard]] Result<BatchHeader> decode_batch_header(
    const RecordHeader& record, std::span<const std::byte, kBatchHeaderBytes> bytes,
    const AgreedContent& agreed = {});

/// A checked table; refers to the bytes it was made from.
class PageTableView {
 public:
  [[nodiscard]] std::size_t size() const { return bytes_.size() / kPageEntryBytes; }
  [[nodiscard]] PageEntry operator[](std::size_t index) const;
  [[nodiscard]] RegionHandle region() const { return region_; }
  /// Whether an entry is of this page.
  [[nodiscard]] bool has(std::uint64_t page) const;

  /// Of the unpacked content: its first part exactly, and within which bounds all of it is.
  [[nodiscard]] std::size_t raw_bytes() const { return raw_ * kPageSize; }
  [[nodiscard]] std::size_t content_bytes_min() const;
  [[nodiscard]] std::size_t content_bytes_max() const;
  [[nodiscard]] bool has_patches() const { return deltas_ + duplicates_ > 0; }

 private:
  friend Result<PageTableView> decode_page_table(const BatchHeader& batch,
                                                 std::span<const std::byte> table,
                                                 std::uint64_t region_pages,
                                                 const AgreedContent& agreed);
  PageTableView(RegionHandle region, std::span<const std::byte> bytes)
      : region_(region), bytes_(bytes) {}
  RegionHandle region_;
  std::span<const std::byte> bytes_;
  std::size_t raw_ = 0;
  std::size_t deltas_ = 0;
  std::size_t duplicates_ = 0;
};

/// Second step, after check_record() of the head: the table (batch.table_bytes() bytes). Every
/// entry lies in a region of `region_pages` pages; entries ascend and do not overlap, so no page is
/// twice in a batch; counts and lengths agree with the batch header. Errors: kProtocol.
[[nodiscard]] Result<PageTableView> decode_page_table(const BatchHeader& batch,
                                                      std::span<const std::byte> table,
                                                      std::uint64_t region_pages,
                                                      const AgreedContent& agreed = {});

/// A page of any region.
struct PageReference {
  RegionHandle region;
  std::uint64_t page = 0;
  friend bool operator==(const PageReference&, const PageReference&) = default;
};

/// Builds the head and the patches of one PAGES record after another in buffers of its own.
///
///   encoder.begin(region, round);
///   encoder.add_raw(page, hash); ... encoder.add_zeros(first, count); ...
///   auto head = encoder.finish(sequence, hasher);
///   // then send head, the raw pages' content and encoder.patches(); or pack those two and send
///   auto head = encoder.finish_packed(ContentCodec::kZstd, packed.size(), sequence, hasher);
///   // and the packed bytes
///
/// Not thread-safe: one a lane. About 8 KiB, and as much as the largest patches() was (under 2
/// MiB): after the first batches it does not allocate.
class PagesEncoder {
 public:
  void begin(RegionHandle region, std::uint32_t round);
  /// Whether another entry may not fit; add_zeros() that continues the last run always does.
  [[nodiscard]] bool full() const { return entries_ == kBatchEntriesMax; }
  [[nodiscard]] bool empty() const { return entries_ == 0; }
  [[nodiscard]] std::uint64_t pages() const { return pages_; }
  /// Of the content, not packed: the raw pages' and patches().
  [[nodiscard]] std::size_t content_bytes() const { return raw_ * kPageSize + patches_.size(); }
  /// Of what finish() gives.
  [[nodiscard]] std::size_t head_bytes() const {
    return kRecordHeaderBytes + kBatchHeaderBytes + entries_ * kPageEntryBytes;
  }
  /// The content's second part; valid until the next add_ or begin().
  [[nodiscard]] std::span<const std::byte> patches() const { return patches_; }

  /// Pages must ascend from call to call; not full().
  void add_raw(std::uint64_t page, std::uint64_t hash);
  void add_zeros(std::uint64_t first, std::uint64_t count);
  /// `delta`: encode_delta()'s, 1 to kDeltaBytesMax bytes; copied. `hash` is of the changed page.
  void add_delta(std::uint64_t page, std::uint64_t hash, std::span<const std::byte> delta);
  /// `original` has the same content at the target since the last barrier, and is not sent in this
  /// round.
  void add_duplicate(std::uint64_t page, std::uint64_t hash, const PageReference& original);

  /// Record header, batch header and table; valid until begin(). Not for an empty batch.
  [[nodiscard]] std::span<const std::byte> finish(std::uint64_t sequence, const Hasher& hasher) {
    return finish_packed(ContentCodec::kNone, content_bytes(), sequence, hasher);
  }
  /// The same for content that `codec` made `packed_bytes` long, which is less than it was.
  [[nodiscard]] std::span<const std::byte> finish_packed(ContentCodec codec,
                                                         std::size_t packed_bytes,
                                                         std::uint64_t sequence,
                                                         const Hasher& hasher);

 private:
  void add(PageEncoding encoding, std::uint64_t first, std::uint64_t value);
  void add_single(PageEncoding encoding, std::uint64_t page, std::uint64_t hash);
  std::byte* add_patch(std::size_t length);

  std::array<std::byte, kRecordHeaderBytes + kBatchHeadBytesMax> buffer_{};
  std::vector<std::byte> patches_;
  RegionHandle region_;
  std::uint32_t round_ = 0;
  std::size_t entries_ = 0;
  std::size_t raw_ = 0;
  std::uint64_t pages_ = 0;
  std::uint64_t next_page_ = 0;  ///< The first page that may come.
  std::uint64_t zero_run_ = 0;   ///< Length of the last entry when it is a run of zeros, else 0.
};

}  // namespace migrate::wire
