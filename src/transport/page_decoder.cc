#include "transport/page_decoder.hpp"

#include <cstring>
#include <string>
#include <utility>

#include "wire/delta.hpp"

namespace migrate {
namespace {

PageRange range_of(const PageLedger::Entry& entry, std::uint64_t page) {
  return {entry.region.range.first + page, 1};
}

/// Whether the raw pages of `table` are all of it and one run, so that content is memory.
bool is_one_run(const wire::PageTableView& table) {
  if (table.has_patches() || table.raw_bytes() != table.size() * kPageSize) return false;
  return table[table.size() - 1].first - table[0].first + 1 == table.size();
}

/// What the guest's own code says is never about the link, whatever its code.
Status of_guest(Status status) {
  if (status) return status;
  return std::move(status).error().on(Side::kTarget);
}

}  // namespace

Result<PageDecoder> PageDecoder::create(Context context) {
  MIGRATE_ASSIGN(auto unpacker, wire::ZstdUnpacker::create());
  return PageDecoder(std::move(context), std::move(unpacker));
}

void PageDecoder::grow_staging() {
  if (staging_.size() < wire::kBatchContentBytesMax) staging_.resize(wire::kBatchContentBytesMax);
}

Status PageDecoder::apply(RecordChannel& channel, const wire::BatchHeader& batch,
                          const wire::PageTableView& table, PageLedger::Entry& entry,
                          std::chrono::nanoseconds idle_max) {
  const auto mapped = context_.pages.mapped(entry.region.id);
  MIGRATE_ASSIGN(const Arrived arrived,
                 batch.codec == wire::ContentCodec::kNone
                     ? receive_plain(channel, batch, table, mapped, idle_max)
                     : receive_packed(channel, batch, table, mapped, idle_max));
  MIGRATE_ASSIGN(auto content, wire::decode_content(table, arrived.raw, arrived.patches));
  for (wire::PageContent page; content.next(page);) {
    MIGRATE_TRY(settle(page, entry, mapped, arrived.in_place));
  }
  counts_.carried += batch.pages;
  const std::uint64_t whole = table.raw_bytes() / kPageSize;
  (batch.codec == wire::ContentCodec::kNone ? counts_.raw : counts_.compressed) += whole;
  return {};
}

Result<PageDecoder::Arrived> PageDecoder::receive_plain(RecordChannel& channel,
                                                        const wire::BatchHeader& batch,
                                                        const wire::PageTableView& table,
                                                        std::span<std::byte> mapped,
                                                        std::chrono::nanoseconds idle_max) {
  const bool in_place = !mapped.empty();
  const std::size_t raw_bytes = table.raw_bytes();
  const std::size_t patch_bytes = batch.content_bytes - raw_bytes;
  parts_.clear();
  if (!in_place || patch_bytes > 0) grow_staging();
  std::byte* const patches = staging_.data() + (in_place ? 0 : raw_bytes);
  if (!in_place && raw_bytes > 0) parts_.push_back({staging_.data(), raw_bytes});
  for (std::size_t i = 0; in_place && i < table.size(); ++i) {
    const wire::PageEntry page = table[i];
    if (page.encoding != wire::PageEncoding::kRaw) continue;
    std::byte* const to = mapped.data() + page.first * kPageSize;
    if (!parts_.empty()) {
      iovec& last = parts_.back();
      if (static_cast<std::byte*>(last.iov_base) + last.iov_len == to) {
        last.iov_len += kPageSize;
        continue;
      }
    }
    parts_.push_back({to, kPageSize});
  }
  if (patch_bytes > 0) parts_.push_back({patches, patch_bytes});
  MIGRATE_TRY(channel.receive_content(parts_, idle_max));
  Arrived arrived;
  arrived.in_place = in_place;
  if (!in_place) arrived.raw = std::span<const std::byte>(staging_).first(raw_bytes);
  arrived.patches = {patches, patch_bytes};
  return arrived;
}

Result<PageDecoder::Arrived> PageDecoder::receive_packed(RecordChannel& channel,
                                                         const wire::BatchHeader& batch,
                                                         const wire::PageTableView& table,
                                                         std::span<std::byte> mapped,
                                                         std::chrono::nanoseconds idle_max) {
  if (packed_.size() < batch.content_bytes) packed_.resize(wire::kBatchContentBytesMax);
  iovec part = {packed_.data(), batch.content_bytes};
  MIGRATE_TRY(channel.receive_content({&part, 1}, idle_max));
  const std::span<const std::byte> packed = std::span(packed_).first(batch.content_bytes);
  if (!mapped.empty() && is_one_run(table)) {
    const auto memory = mapped.subspan(table[0].first * kPageSize, table.raw_bytes());
    MIGRATE_TRY(unpacker_.unpack(table, packed, memory));
    return Arrived{{}, {}, true};
  }
  grow_staging();
  MIGRATE_ASSIGN(const auto content, unpacker_.unpack(table, packed, staging_));
  return Arrived{content.first(table.raw_bytes()), content.subspan(table.raw_bytes()), false};
}

Status PageDecoder::settle(const wire::PageContent& page, PageLedger::Entry& entry,
                           std::span<std::byte> mapped, bool in_place) {
  switch (page.entry.encoding) {
    case wire::PageEncoding::kRaw:
      return settle_raw(page, entry, mapped, in_place);
    case wire::PageEncoding::kZeros:
      return settle_zeros(page.entry, entry);
    case wire::PageEncoding::kDelta:
      return settle_delta(page, entry, mapped);
    case wire::PageEncoding::kDuplicate:
      return settle_duplicate(page, entry, mapped);
  }
  return make_error(ErrorCode::kInternal, "a page came in a way that was not agreed on");
}

Status PageDecoder::enter(const wire::PageEntry& page, PageLedger::Entry& entry,
                          const std::byte* content) {
  const std::uint64_t hash = context_.digest.hash({content, kPageSize});
  if (hash != page.hash) {
    return make_error(ErrorCode::kIntegrity,
                      page_text(entry, page.first) + " arrived with another content than was sent")
        .advise("check the network path and this host's memory, then send again");
  }
  std::uint64_t& known = entry.hashes[page.first];
  counts_.digest_change +=
      context_.digest.change(wire::RegionHandle{entry.handle}, page.first, known, hash);
  known = hash;
  return {};
}

Status PageDecoder::put(const wire::PageEntry& page, const PageLedger::Entry& entry,
                        std::span<std::byte> mapped, const std::byte* content) {
  if (mapped.empty()) {
    return of_guest(
        context_.pages.write(entry.region.id, range_of(entry, page.first), {content, kPageSize}));
  }
  std::memcpy(mapped.data() + page.first * kPageSize, content, kPageSize);
  return {};
}

Status PageDecoder::settle_raw(const wire::PageContent& page, PageLedger::Entry& entry,
                               std::span<std::byte> mapped, bool in_place) {
  if (in_place) {
    return enter(page.entry, entry, mapped.data() + page.entry.first * kPageSize);
  }
  MIGRATE_TRY(enter(page.entry, entry, page.bytes.data()));
  return put(page.entry, entry, mapped, page.bytes.data());
}

Status PageDecoder::settle_delta(const wire::PageContent& page, PageLedger::Entry& entry,
                                 std::span<std::byte> mapped) {
  ++counts_.delta;
  if (entry.hashes[page.entry.first] == wire::PageDigest::kVoid) {
    return make_error(ErrorCode::kProtocol, page_text(entry, page.entry.first) +
                                                " came as a delta, and what it was is not known")
        .advise("run the same version of migrate on both hosts");
  }
  const std::span<std::byte, kPageSize> changed(page_);
  if (!mapped.empty()) {
    const std::span<std::byte, kPageSize> memory(mapped.data() + page.entry.first * kPageSize,
                                                 kPageSize);
    MIGRATE_TRY(wire::decode_delta(memory, page.bytes, memory));
    return enter(page.entry, entry, memory.data());
  }
  const PageRange range = range_of(entry, page.entry.first);
  MIGRATE_TRY(of_guest(context_.pages.read(entry.region.id, range, changed)));
  MIGRATE_TRY(wire::decode_delta(changed, page.bytes, changed));
  MIGRATE_TRY(enter(page.entry, entry, changed.data()));
  return of_guest(context_.pages.write(entry.region.id, range, changed));
}

Status PageDecoder::settle_duplicate(const wire::PageContent& page, PageLedger::Entry& entry,
                                     std::span<std::byte> mapped) {
  ++counts_.duplicate;
  const wire::PageReference& named = page.original;
  const PageLedger::Entry* original = context_.ledger.find(named.region.number);
  if (original == nullptr || named.page >= original->region.range.count || context_.came(named) ||
      original->hashes[named.page] == wire::PageDigest::kVoid) {
    return make_error(ErrorCode::kProtocol,
                      page_text(entry, page.entry.first) +
                          " is said to be a duplicate of a page that is not there, or that came in "
                          "the same round")
        .advise("run the same version of migrate on both hosts");
  }
  MIGRATE_TRY(
      of_guest(context_.pages.read(original->region.id, range_of(*original, named.page), page_)));
  MIGRATE_TRY(enter(page.entry, entry, page_.data()));
  return put(page.entry, entry, mapped, page_.data());
}

Status PageDecoder::settle_zeros(const wire::PageEntry& run, PageLedger::Entry& entry) {
  const std::uint64_t zero_hash = context_.digest.zero_hash();
  const std::uint64_t end = run.first + run.count;
  for (std::uint64_t page = run.first; page < end;) {
    // Pages that the ledger has as zero are zero already and stay untouched.
    while (page < end && entry.hashes[page] == zero_hash) ++page;
    const std::uint64_t first = page;
    for (; page < end && entry.hashes[page] != zero_hash; ++page) {
      counts_.digest_change += context_.digest.change(wire::RegionHandle{entry.handle}, page,
                                                      entry.hashes[page], zero_hash);
      entry.hashes[page] = zero_hash;
    }
    if (first == page) break;
    MIGRATE_TRY(of_guest(
        context_.pages.zero(entry.region.id, {entry.region.range.first + first, page - first})));
  }
  counts_.zero += run.count;
  return {};
}

}  // namespace migrate
