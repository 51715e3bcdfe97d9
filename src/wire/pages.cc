#include "wire/pages.hpp"

#include <string>

#include "wire/codec.hpp"

namespace migrate::wire {
namespace {

// An entry's first word: the encoding above the page number.
constexpr unsigned kEncodingShift = 56;
constexpr std::uint64_t kPageMask = (std::uint64_t{1} << kEncodingShift) - 1;
static_assert(kPageNumberMax <= kPageMask);

Error pages_error(std::size_t body_byte, std::string what) {
  return make_error(ErrorCode::kProtocol, "invalid PAGES record, byte " +
                                              std::to_string(kRecordHeaderBytes + body_byte) +
                                              ": " + std::move(what));
}

PageEntry load_entry(const std::byte* from) {
  const std::uint64_t word = load_u64(from);
  const std::uint64_t value = load_u64(from + 8);
  PageEntry entry;
  entry.encoding = static_cast<PageEncoding>(word >> kEncodingShift);
  entry.first = word & kPageMask;
  if (entry.encoding == PageEncoding::kZeros) {
    entry.count = value;
  } else {
    entry.hash = value;
  }
  return entry;
}

/// Whether `number` is in one of HELLO's sets of 32.
template <typename Number>
bool is_in(Number number, std::uint32_t set) {
  const auto bit = static_cast<unsigned>(number);
  return bit < 32 && (set >> bit & 1) != 0;
}

/// What one entry must be by itself and after the pages before `next`.
Status check_entry(const PageEntry& entry, std::size_t byte, std::uint64_t next,
                   std::uint64_t region_pages, const AgreedContent& agreed) {
  if (!is_in(entry.encoding, agreed.encodings & kEncodingsKnown)) {
    return pages_error(byte + 7, "page encoding " +
                                     std::to_string(static_cast<unsigned>(entry.encoding)) +
                                     " was not agreed");
  }
  if (entry.first < next) {
    return pages_error(
        byte, "page " + std::to_string(entry.first) + " comes twice or not in ascending order");
  }
  if (entry.count == 0) return pages_error(byte + 8, "a run of no pages");
  if (entry.first >= region_pages || entry.count > region_pages - entry.first) {
    return pages_error(byte, std::to_string(entry.count) + " pages from " +
                                 std::to_string(entry.first) + " are not all in a region of " +
                                 std::to_string(region_pages));
  }
  return {};
}

}  // namespace

Result<BatchHeader> decode_batch_header(const RecordHeader& record,
                                        std::span<const std::byte, kBatchHeaderBytes> bytes,
                                        const AgreedContent& agreed) {
  MIGRATE_CHECK(record.type == RecordType::kPages);
  BatchHeader batch;
  batch.region = RegionHandle{load_u32(bytes.data())};
  batch.round = load_u32(bytes.data() + 4);
  batch.entries = load_u16(bytes.data() + 8);
  batch.codec = static_cast<ContentCodec>(bytes[10]);
  batch.content_bytes = load_u32(bytes.data() + 12);
  batch.pages = load_u64(bytes.data() + 16);
  if (batch.entries == 0 || batch.entries > kBatchEntriesMax) {
    return pages_error(8, std::to_string(batch.entries) + " entries, 1 to " +
                              std::to_string(kBatchEntriesMax) + " are allowed");
  }
  if (!is_in(batch.codec, agreed.codecs & kCodecsKnown)) {
    return pages_error(10, "content codec " + std::to_string(static_cast<unsigned>(batch.codec)) +
                               " was not agreed");
  }
  if (bytes[11] != std::byte{0}) return pages_error(11, "the reserved byte is not 0");
  const std::uint64_t length = std::uint64_t{batch.head_bytes()} + batch.content_bytes;
  if (length != record.length || batch.content_bytes > kBatchContentBytesMax) {
    return pages_error(12, std::to_string(batch.entries) + " entries and " +
                               std::to_string(batch.content_bytes) +
                               " bytes of content do not make the record's length of " +
                               std::to_string(record.length));
  }
  return batch;
}

PageEntry PageTableView::operator[](std::size_t index) const {
  MIGRATE_CHECK(index < size());
  return load_entry(bytes_.data() + index * kPageEntryBytes);
}

bool PageTableView::has(std::uint64_t page) const {
  // Entries ascend: the last one that begins at or before `page` is the only candidate.
  std::size_t low = 0;
  std::size_t high = size();
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if ((*this)[middle].first <= page) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == 0) return false;
  const PageEntry entry = (*this)[low - 1];
  return page - entry.first < entry.count;
}

std::size_t PageTableView::content_bytes_min() const {
  return raw_bytes() + deltas_ * (kPatchLengthBytes + 1) +
         duplicates_ * (kPatchLengthBytes + kDuplicateBytes);
}

std::size_t PageTableView::content_bytes_max() const {
  return raw_bytes() + deltas_ * (kPatchLengthBytes + kDeltaBytesMax) +
         duplicates_ * (kPatchLengthBytes + kDuplicateBytes);
}

Result<PageTableView> decode_page_table(const BatchHeader& batch, std::span<const std::byte> table,
                                        std::uint64_t region_pages, const AgreedContent& agreed) {
  MIGRATE_CHECK(table.size() == batch.table_bytes() && region_pages <= kPageNumberMax);
  PageTableView view(batch.region, table);
  std::uint64_t next = 0;
  std::uint64_t pages = 0;
  for (std::size_t i = 0; i < batch.entries; ++i) {
    const PageEntry entry = load_entry(table.data() + i * kPageEntryBytes);
    MIGRATE_TRY(
        check_entry(entry, kBatchHeaderBytes + i * kPageEntryBytes, next, region_pages, agreed));
    next = entry.first + entry.count;
    pages += entry.count;
    if (entry.encoding == PageEncoding::kRaw) ++view.raw_;
    if (entry.encoding == PageEncoding::kDelta) ++view.deltas_;
    if (entry.encoding == PageEncoding::kDuplicate) ++view.duplicates_;
  }
  if (pages != batch.pages) {
    return pages_error(16, std::to_string(batch.pages) + " pages are announced, the table has " +
                               std::to_string(pages));
  }
  // Packed content is smaller than unpacked; how much that is, its frame says.
  const bool fits = batch.codec == ContentCodec::kNone
                        ? batch.content_bytes >= view.content_bytes_min() &&
                              batch.content_bytes <= view.content_bytes_max()
                        : batch.content_bytes < view.content_bytes_max();
  if (!fits) {
    return pages_error(12, std::to_string(batch.content_bytes) + " bytes of content for " +
                               std::to_string(view.raw_) + " raw pages, " +
                               std::to_string(view.deltas_) + " deltas and " +
                               std::to_string(view.duplicates_) + " duplicates");
  }
  return view;
}

void PagesEncoder::begin(RegionHandle region, std::uint32_t round) {
  region_ = region;
  round_ = round;
  entries_ = 0;
  raw_ = 0;
  pages_ = 0;
  next_page_ = 0;
  zero_run_ = 0;
  patches_.clear();
}

void PagesEncoder::add_single(PageEncoding encoding, std::uint64_t page, std::uint64_t hash) {
  add(encoding, page, hash);
  ++pages_;
  next_page_ = page + 1;
  zero_run_ = 0;
}

void PagesEncoder::add_raw(std::uint64_t page, std::uint64_t hash) {
  add_single(PageEncoding::kRaw, page, hash);
  ++raw_;
}

void PagesEncoder::add_delta(std::uint64_t page, std::uint64_t hash,
                             std::span<const std::byte> delta) {
  MIGRATE_CHECK(!delta.empty() && delta.size() <= kDeltaBytesMax);
  add_single(PageEncoding::kDelta, page, hash);
  std::memcpy(add_patch(delta.size()), delta.data(), delta.size());
}

void PagesEncoder::add_duplicate(std::uint64_t page, std::uint64_t hash,
                                 const PageReference& original) {
  MIGRATE_CHECK(original.page < kPageNumberMax);
  add_single(PageEncoding::kDuplicate, page, hash);
  std::byte* const to = add_patch(kDuplicateBytes);
  store_u32(to, original.region.number);
  store_u64(to + 4, original.page);
}

std::byte* PagesEncoder::add_patch(std::size_t length) {
  const std::size_t at = patches_.size();
  patches_.resize(at + kPatchLengthBytes + length);
  store_u16(patches_.data() + at, static_cast<std::uint16_t>(length));
  return patches_.data() + at + kPatchLengthBytes;
}

void PagesEncoder::add_zeros(std::uint64_t first, std::uint64_t count) {
  MIGRATE_CHECK(count > 0 && count <= kPageNumberMax && first <= kPageNumberMax - count);
  if (zero_run_ != 0 && first == next_page_) {
    zero_run_ += count;
    store_u64(buffer_.data() + kRecordHeaderBytes + kBatchHeaderBytes +
                  (entries_ - 1) * kPageEntryBytes + 8,
              zero_run_);
  } else {
    add(PageEncoding::kZeros, first, count);
    zero_run_ = count;
  }
  pages_ += count;
  next_page_ = first + count;
}

void PagesEncoder::add(PageEncoding encoding, std::uint64_t first, std::uint64_t value) {
  MIGRATE_CHECK(!full() && first >= next_page_ && first < kPageNumberMax);
  std::byte* to =
      buffer_.data() + kRecordHeaderBytes + kBatchHeaderBytes + entries_ * kPageEntryBytes;
  store_u64(to, static_cast<std::uint64_t>(encoding) << kEncodingShift | first);
  store_u64(to + 8, value);
  ++entries_;
}

std::span<const std::byte> PagesEncoder::finish_packed(ContentCodec codec, std::size_t packed_bytes,
                                                       std::uint64_t sequence,
                                                       const Hasher& hasher) {
  MIGRATE_CHECK(!empty());
  MIGRATE_CHECK(codec == ContentCodec::kNone ? packed_bytes == content_bytes()
                                             : packed_bytes < content_bytes());
  std::byte* const batch = buffer_.data() + kRecordHeaderBytes;
  store_u32(batch, region_.number);
  store_u32(batch + 4, round_);
  store_u16(batch + 8, static_cast<std::uint16_t>(entries_));
  batch[10] = static_cast<std::byte>(codec);
  batch[11] = std::byte{0};
  store_u32(batch + 12, static_cast<std::uint32_t>(packed_bytes));
  store_u64(batch + 16, pages_);
  const std::size_t head_bytes = kBatchHeaderBytes + entries_ * kPageEntryBytes;
  const std::span<const std::byte> head(batch, head_bytes);
  const auto header =
      encode_header(RecordType::kPages, static_cast<std::uint32_t>(head_bytes + packed_bytes),
                    sequence, head, hasher);
  std::memcpy(buffer_.data(), header.data(), header.size());
  return {buffer_.data(), kRecordHeaderBytes + head_bytes};
}

}  // namespace migrate::wire
