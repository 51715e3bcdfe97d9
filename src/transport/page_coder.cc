#include "transport/page_coder.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "memory/zero_page.hpp"

namespace migrate {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Less than this is one packet or a few: packing would only make it later.
constexpr std::size_t kPackBytesMin = 16 << 10;

/// Stands for the content of a page that was found to be zero.
constexpr std::array<std::byte, kPageSize> kZeros{};

iovec part_of(const std::byte* bytes, std::size_t count) {
  return {const_cast<std::byte*>(bytes), count};
}

}  // namespace

Result<PageCoder> PageCoder::create(const Context& context) {
  MIGRATE_ASSIGN(auto packer, wire::ZstdPacker::create());
  return PageCoder(context, std::move(packer));
}

PageCoder::PageCoder(const Context& context, wire::ZstdPacker packer)
    : context_(context), packer_(std::move(packer)), policy_(context.compression) {
  if ((context.agreed.codecs & wire::set_of(wire::ContentCodec::kZstd)) == 0) {
    context_.compression = {CompressionChoice::Mode::kNone, 1};
    policy_ = CompressionPolicy(context_.compression);
  }
  staging_.resize(PageBatch::kPagesMax * kPageSize);
  content_.reserve(PageBatch::kPagesMax + 1);
  sample_.reserve(CompressionPolicy::kSampleBytes / kPageSize);
}

// A page of zeros needs no copy: it was zero when each of its bytes was read, which is all that a
// copy says too, and what is written from now on the tracker tells.
void PageCoder::stage(const std::byte* from, std::uint32_t first, std::uint32_t count) {
  for (std::uint32_t i = first; i < first + count; ++i, from += kPageSize) {
    if (is_zero_page(from)) {
      page_[i] = kZeros.data();
      continue;
    }
    std::byte* const staged = staging_.data() + i * kPageSize;
    std::memcpy(staged, from, kPageSize);
    page_[i] = staged;
  }
}

Status PageCoder::gather(const PageBatch& batch) {
  const Region& region = batch.entry->region;
  const auto mapped = context_.pages.mapped(region.id);
  if (!mapped.empty()) MIGRATE_CHECK(mapped.size() == region.range.bytes());
  for (std::uint32_t i = 0; i < batch.count;) {
    std::uint32_t run = 1;
    while (i + run < batch.count && batch.pages[i + run] == batch.pages[i] + run) ++run;
    std::byte* staged = staging_.data() + i * kPageSize;
    const std::byte* from = staged;
    if (!mapped.empty() && batch.stable) {
      from = mapped.data() + batch.pages[i] * kPageSize;
    } else if (!mapped.empty()) {
      stage(mapped.data() + batch.pages[i] * kPageSize, i, run);
      i += run;
      continue;
    } else {
      const PageRange range{region.range.first + batch.pages[i], run};
      auto outcome = context_.pages.read(region.id, range, {staged, run * kPageSize});
      // Never about the link, whatever its code.
      if (!outcome) return std::move(outcome).error().on(Side::kSource);
      if (*outcome == ReadOutcome::kGone) from = nullptr;
    }
    for (std::uint32_t j = 0; j < run; ++j) {
      page_[i + j] = from == nullptr ? nullptr : from + j * kPageSize;
    }
    i += run;
  }
  return {};
}

Status PageCoder::code(const PageBatch& batch, const PageBitmap& round_set, bool resend) {
  MIGRATE_TRY(gather(batch));
  PageLedger::Entry& entry = *batch.entry;
  const wire::RegionHandle handle{entry.handle};
  const std::uint64_t zero_hash = context_.digest.zero_hash();
  content_.clear();
  packed_bytes_ = 0;
  batch_raw_ = 0;
  encoder_.begin(handle, batch.round);
  for (std::uint32_t i = 0; i < batch.count; ++i) {
    if (page_[i] == nullptr) {
      ++counts_.gone;
      continue;
    }
    const std::uint64_t page = batch.pages[i];
    const std::uint64_t known = entry.hashes[page];
    const bool zero = page_[i] == kZeros.data() || is_zero_page(page_[i]);
    const std::uint64_t hash = zero ? zero_hash : context_.digest.hash({page_[i], kPageSize});
    if (zero) ++counts_.zero;
    if (hash == known && !std::exchange(resend, false)) {
      if (!zero) ++counts_.unchanged;
      continue;
    }
    counts_.digest_change += context_.digest.change(handle, page, known, hash);
    if (zero) {
      encoder_.add_zeros(page, 1);
    } else {
      add(entry, page, page_[i], hash, batch, round_set);
    }
    entry.hashes[page] = hash;
  }
  counts_.carried += encoder_.pages();
  if (!encoder_.patches().empty()) {
    content_.push_back(part_of(encoder_.patches().data(), encoder_.patches().size()));
  }
  return {};
}

void PageCoder::add(PageLedger::Entry& entry, std::uint64_t page, const std::byte* content,
                    std::uint64_t hash, const PageBatch& batch, const PageBitmap& round_set) {
  const std::uint64_t known = entry.hashes[page];
  std::size_t delta = 0;
  // A page that was not zero before is sent for the second time at least, and in another round than
  // the first, which is sent twice after a lost link, the guest has written it.
  if (batch.round > 0 && agreed(wire::PageEncoding::kDelta) &&
      known != context_.digest.zero_hash()) {
    delta = context_.sent.replace(entry.handle, page,
                                  std::span<const std::byte, kPageSize>(content, kPageSize), hash,
                                  known, batch.round, delta_);
  }
  if (delta > 0) {
    encoder_.add_delta(page, hash, std::span(delta_).first(delta));
    ++counts_.delta;
  } else if (const auto original = original_of(hash, content, round_set)) {
    encoder_.add_duplicate(page, hash, *original);
    ++counts_.duplicate;
  } else {
    encoder_.add_raw(page, hash);
    content_.push_back(part_of(content, kPageSize));
    ++counts_.raw;
    ++batch_raw_;
  }
  if (agreed(wire::PageEncoding::kDuplicate)) {
    context_.originals.note(hash, {wire::RegionHandle{entry.handle}, page});
  }
}

std::optional<wire::PageReference> PageCoder::original_of(std::uint64_t hash,
                                                          const std::byte* content,
                                                          const PageBitmap& round_set) {
  if (!agreed(wire::PageEncoding::kDuplicate)) return std::nullopt;
  const auto original = context_.originals.find(hash);
  if (!original) return std::nullopt;
  const PageLedger::Entry* entry = context_.ledger.find(original->region.number);
  if (entry == nullptr || original->page >= entry->region.range.count) return std::nullopt;
  const PageBitmap::Segment* sending = round_set.find(entry->region.id);
  // What another lane may be sending now is not at the target for sure, nor is its hash for us.
  if (sending == nullptr ||
      ((sending->words[original->page / 64] >> (original->page % 64)) & 1) != 0 ||
      entry->hashes[original->page] != hash) {
    return std::nullopt;
  }
  // Equal hashes are equal pages, but for one in 2^64: the bytes are the proof. Where the guest has
  // written the original meanwhile they differ, and it is sent whole.
  const auto mapped = context_.pages.mapped(entry->region.id);
  if (mapped.size() != entry->region.range.bytes() ||
      std::memcmp(mapped.data() + original->page * kPageSize, content, kPageSize) != 0) {
    return std::nullopt;
  }
  return original;
}

Result<std::size_t> PageCoder::pack_sample(int level) {
  sample_.clear();
  const std::size_t pages = CompressionPolicy::kSampleBytes / kPageSize;
  const std::size_t step = std::max<std::size_t>(1, content_.size() / pages);
  for (std::size_t i = step / 2; i < content_.size() && sample_.size() < pages; i += step) {
    sample_.push_back(content_[i]);
    sample_.back().iov_len = std::min<std::size_t>(sample_.back().iov_len, kPageSize);
  }
  return packer_.pack(sample_, level, packed_);
}

Status PageCoder::pack() {
  plan_ = policy_.next();
  batch_ = {};
  batch_.content = encoder_.content_bytes();
  if ((!plan_.pack && !plan_.sample) || batch_.content < kPackBytesMin) return {};
  // What does not become smaller is not kept, so there is always room.
  if (packed_.size() < batch_.content) packed_.resize(batch_.content);
  auto begin = SteadyClock::now();
  bool shrinks = true;
  if (plan_.sample) {
    MIGRATE_ASSIGN(const std::size_t packed, pack_sample(*plan_.sample));
    for (const iovec& part : sample_) batch_.sampled += part.iov_len;
    batch_.sampled_to = packed == 0 ? batch_.sampled : packed;
    batch_.sampling = SteadyClock::now() - begin;
    begin += batch_.sampling;
    shrinks = CompressionPolicy::compressible(batch_.sampled, batch_.sampled_to);
  }
  if (!plan_.pack || !shrinks) return {};
  MIGRATE_ASSIGN(packed_bytes_, packer_.pack(content_, *plan_.pack, packed_));
  batch_.packing = SteadyClock::now() - begin;
  if (packed_bytes_ == 0) return {};
  batch_.packed = plan_.pack;
  counts_.compressed += batch_raw_;
  counts_.raw -= batch_raw_;
  content_.assign(1, part_of(packed_.data(), packed_bytes_));
  return {};
}

void PageCoder::note_sent(std::chrono::nanoseconds took, std::chrono::nanoseconds waiting) {
  // Batches of a few pages are no measure of anything.
  if (batch_.content < kPackBytesMin) return;
  batch_.sent = wire_content_bytes();
  batch_.took = took;
  batch_.waiting = waiting;
  policy_.note(batch_, plan_);
}

std::span<const std::byte> PageCoder::head(std::uint64_t sequence, const wire::Hasher& hasher) {
  if (packed_bytes_ == 0) return encoder_.finish(sequence, hasher);
  return encoder_.finish_packed(wire::ContentCodec::kZstd, packed_bytes_, sequence, hasher);
}

}  // namespace migrate
