// A PAGES body as a receiver takes it, its checksum passed: batch header, table, content (packed or
// not), patches, deltas. The first two bytes are the region's pages.
#include <array>
#include <cstdlib>
#include <vector>

#include "tests/fuzz/fuzz.hpp"
#include "wire/codec.hpp"
#include "wire/delta.hpp"
#include "wire/packing.hpp"
#include "wire/page_content.hpp"

namespace migrate::wire {
namespace {

constexpr AgreedContent kAll{kEncodingsKnown, kCodecsKnown};

void require(bool condition) {
  if (!condition) std::abort();
}

/// Every entry has what its encoding needs, within `content`.
void walk(const PageTableView& table, BatchContent entries, std::span<const std::byte> content) {
  std::array<std::byte, kPageSize> page{};
  std::size_t raw = 0;
  std::size_t count = 0;
  for (PageContent entry; entries.next(entry); ++count) {
    require(entry.entry == table[count]);
    require(table.has(entry.entry.first));
    if (!entry.bytes.empty()) {
      require(entry.bytes.data() >= content.data());
      require(entry.bytes.data() + entry.bytes.size() <= content.data() + content.size());
    }
    if (entry.entry.encoding == PageEncoding::kRaw) {
      require(entry.bytes.size() == kPageSize);
      ++raw;
    }
    if (entry.entry.encoding == PageEncoding::kDelta) {
      (void)decode_delta(page, entry.bytes, page);
    }
    if (entry.entry.encoding == PageEncoding::kDuplicate) {
      require(entry.original.region != table.region() || !table.has(entry.original.page));
    }
  }
  require(count == table.size() && raw * kPageSize == table.raw_bytes());
}

Status receive(std::span<const std::byte> body, std::uint64_t region_pages) {
  static ZstdUnpacker unpacker = *ZstdUnpacker::create();
  RecordHeader record;
  record.type = RecordType::kPages;
  record.length = static_cast<std::uint32_t>(body.size());
  MIGRATE_ASSIGN(const auto batch,
                 decode_batch_header(record, body.first<kBatchHeaderBytes>(), kAll));
  const auto table_bytes = body.subspan(kBatchHeaderBytes, batch.table_bytes());
  MIGRATE_ASSIGN(const auto table, decode_page_table(batch, table_bytes, region_pages, kAll));
  std::span<const std::byte> content = body.subspan(batch.head_bytes());
  std::vector<std::byte> unpacked;
  if (batch.codec == ContentCodec::kZstd) {
    MIGRATE_ASSIGN(const std::size_t bytes, unpacked_bytes(table, content));
    require(bytes <= kBatchContentBytesMax);
    unpacked.resize(bytes);
    MIGRATE_ASSIGN(content, unpacker.unpack(table, content, unpacked));
  }
  MIGRATE_ASSIGN(const auto entries, decode_content(table, content.first(table.raw_bytes()),
                                                    content.subspan(table.raw_bytes())));
  walk(table, entries, content);
  return {};
}

}  // namespace
}  // namespace migrate::wire

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace migrate;
  const auto bytes = fuzz::input(data, size);
  if (size < 2 + wire::kBatchHeaderBytes || size > 2 + wire::length_max(wire::RecordType::kPages)) {
    return 0;
  }
  (void)wire::receive(bytes.subspan(2), wire::load_u16(bytes.data()));
  return 0;
}
