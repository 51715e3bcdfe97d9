#include "checkpoint/page_lane.hpp"

#include <algorithm>

#include "memory/zero_page.hpp"

namespace migrate::checkpoint {
namespace {

using std::chrono::nanoseconds;

std::uint64_t table_bytes(std::uint32_t count) {
  return kBlockHeadBytes + std::uint64_t{count} * kTableEntryBytes;
}

}  // namespace

Result<std::unique_ptr<ImageWriter::Lane>> make_page_lane(ImageParts& parts) {
  MIGRATE_ASSIGN(auto lane, PageLane::create(parts));
  return std::unique_ptr<ImageWriter::Lane>(std::move(lane));
}

Result<std::unique_ptr<PageLane>> PageLane::create(ImageParts& parts) {
  MIGRATE_ASSIGN(auto output, parts.output->make_lane());
  MIGRATE_ASSIGN(auto packer, wire::ZstdPacker::create());
  return std::unique_ptr<PageLane>(new PageLane(parts, std::move(output), std::move(packer)));
}

PageLane::PageLane(ImageParts& parts, std::unique_ptr<ImageOutput::Lane> output,
                   wire::ZstdPacker packer)
    : parts_(parts),
      output_(std::move(output)),
      packer_(std::move(packer)),
      policy_(parts.compress),
      batch_(parts.lanes.fetch_add(1, std::memory_order_relaxed)) {
  locations_.reserve(PageBatch::kPagesMax);
  blocks_.reserve(kFramesMax);
}

void PageLane::note_change(std::uint16_t region, std::uint64_t page, const PageRecord& before,
                           std::uint64_t hash) {
  digest_ += parts_.digest.change({region}, page, before.hash(), hash);
  if (before.location().is_stored()) parts_.index.note_again();
}

Status PageLane::add_zero(std::uint16_t region, std::uint64_t page) {
  MIGRATE_ASSIGN(PageRecord* const record, parts_.index.at(region, page));
  note_change(region, page, *record, parts_.digest.zero_hash());
  record->set(PageLocation::zero(), parts_.digest.zero_hash());
  return {};
}

Status PageLane::add(std::uint16_t region, std::uint64_t page, const std::byte* content) {
  if (is_zero_page(content)) return add_zero(region, page);
  MIGRATE_ASSIGN(PageRecord* const record, parts_.index.at(region, page));
  if (open_ && (batch_.full() || batch_.region() != region)) MIGRATE_TRY(end());
  if (!open_) MIGRATE_TRY(begin(region));

  // What is hashed must be what is stored, whoever writes to the page meanwhile: hash the copy.
  std::byte* const copy = batch_.next();
  std::memcpy(copy, content, kPageSize);
  const std::span<const std::byte> bytes(copy, kPageSize);
  const std::uint64_t hash = parts_.digest.hash(bytes);
  if (hash == parts_.digest.zero_hash()) return add_zero(region, page);

  note_change(region, page, *record, hash);
  const bool untouched = record->location().is_parent();
  bool in_base = untouched && record->hash() == hash;
  if (!untouched) {
    MIGRATE_ASSIGN(in_base, parts_.index.is_in_base(region, page, hash));
  }
  if (in_base) {
    record->set(PageLocation::parent(), hash);
    return {};
  }
  const std::uint64_t other = parts_.other.hash(bytes);
  if (const PageLocation there = parts_.duplicates.find(hash, other); !there.is_zero()) {
    record->set(there, hash, true);
    return {};
  }
  if (const auto slot = batch_.find_equal(hash)) {
    batch_.keep_equal(record, page, *slot);
    return {};
  }
  batch_.keep(record, page, hash, other);
  return {};
}

Status PageLane::begin(std::uint16_t region) {
  begun_ = Clock::now();
  measured_ = {};
  plan_ = policy_.next();
  if (buffer_.empty()) {
    MIGRATE_ASSIGN(buffer_, output_->buffer(kBufferBytes));
    measured_.waiting = Clock::now() - begun_;
  }
  std::byte* memory = buffer_.data() + kBlockAlign;
  if (plan_.pack) {
    MIGRATE_TRY(staging_.reserve(PageBatch::kBytesMax));
    memory = staging_.bytes().data();
  }
  batch_.begin(region, memory);
  open_ = true;
  return {};
}

Status PageLane::end() {
  open_ = false;
  std::optional<std::uint64_t> offset;
  while (!offset) {
    if (batch_.has_stale()) batch_.drop_stale();
    if (batch_.empty()) return {};
    MIGRATE_TRY(make_blocks());
    offset = take_place();
  }
  finish_blocks(*offset);
  const auto before = Clock::now();
  MIGRATE_TRY(output_->write(*offset, used_));
  buffer_ = {};
  const auto now = Clock::now();
  measured_.content = batch_.pages().size() * kPageSize;
  measured_.sent = used_;
  measured_.waiting += now - before;
  measured_.took = now - begun_;
  policy_.note(measured_, plan_);
  return {};
}

Result<std::size_t> PageLane::pack_sample(int level) {
  std::array<iovec, CompressionPolicy::kSampleBytes / kPageSize> sample;
  std::size_t taken = 0;
  const std::size_t pages = batch_.pages().size();
  const std::size_t step = std::max<std::size_t>(1, pages / sample.size());
  for (std::size_t i = step / 2; i < pages && taken < sample.size(); i += step) {
    sample[taken++] = {const_cast<std::byte*>(batch_.content(i)), kPageSize};
  }
  const auto begun = Clock::now();
  std::array<std::byte, CompressionPolicy::kSampleBytes> into;
  MIGRATE_ASSIGN(const std::size_t packed,
                 packer_.pack(std::span(sample).first(taken), level, into));
  measured_.sampled = taken * kPageSize;
  measured_.sampled_to = packed == 0 ? measured_.sampled : packed;
  measured_.sampling = Clock::now() - begun;
  return packed;
}

Result<bool> PageLane::should_pack() {
  bool shrinks = true;
  if (plan_.sample) {
    MIGRATE_TRY(pack_sample(*plan_.sample));
    shrinks = CompressionPolicy::compressible(measured_.sampled, measured_.sampled_to);
  }
  return plan_.pack && shrinks;
}

Status PageLane::make_blocks() {
  used_ = 0;
  blocks_.clear();
  measured_.packed.reset();
  std::byte* const raw = buffer_.data() + kBlockAlign;
  MIGRATE_ASSIGN(const bool pack, should_pack());
  const auto count = static_cast<std::uint32_t>(batch_.pages().size());
  if (!pack) {
    MIGRATE_TRY(staging_.reserve(PageBatch::kBytesMax));
    std::byte* const staging = staging_.bytes().data();
    batch_.sort(batch_.memory() == staging ? raw : staging);
    batch_.move_to(raw);
    add_raw(0, count);
    return {};
  }
  // Out of the way of the blocks to be made.
  MIGRATE_TRY(staging_.reserve(PageBatch::kBytesMax));
  batch_.sort(batch_.memory() == raw ? staging_.bytes().data() : raw);
  batch_.move_to(staging_.bytes().data());
  const auto begun = Clock::now();
  for (std::uint32_t first = 0; first < count; first += kPagesPerFrame) {
    MIGRATE_TRY(add_frame(first, std::min(kPagesPerFrame, count - first)));
  }
  measured_.packing += Clock::now() - begun;
  return {};
}

void PageLane::add_raw(std::uint32_t first, std::uint32_t count) {
  const std::size_t bytes = std::size_t{count} * kPageSize;
  std::byte* const to = buffer_.data() + used_ + kBlockAlign;
  if (batch_.content(first) != to) std::memcpy(to, batch_.content(first), bytes);
  const BlockHead head{.type = BlockType::kRaw,
                       .region = batch_.region(),
                       .length = kBlockAlign + bytes,
                       .image = parts_.header.id.short_form(),
                       .count = count,
                       .payload = bytes};
  blocks_.push_back({head, used_, first});
  used_ += head.length;
}

Status PageLane::add_frame(std::uint32_t first, std::uint32_t count) {
  const std::size_t bytes = std::size_t{count} * kPageSize;
  const iovec content{const_cast<std::byte*>(batch_.content(first)), bytes};
  // One block of 4096 less than as they are, or it is not worth the unpacking.
  const std::size_t table = table_bytes(count);
  const std::size_t room = bytes > table ? bytes - table : 0;
  MIGRATE_ASSIGN(const std::size_t packed,
                 packer_.pack({&content, 1}, *plan_.pack, buffer_.subspan(used_ + table, room)));
  if (packed == 0) {
    add_raw(first, count);
    return {};
  }
  const BlockHead head{.type = BlockType::kPacked,
                       .region = batch_.region(),
                       .length = aligned_up(table + packed),
                       .image = parts_.header.id.short_form(),
                       .count = count,
                       .payload = packed};
  const std::size_t end = used_ + table + packed;
  std::memset(buffer_.data() + end, 0, used_ + head.length - end);
  blocks_.push_back({head, used_, first});
  used_ += head.length;
  measured_.packed = plan_.pack;
  return {};
}

std::optional<std::uint64_t> PageLane::take_place() {
  const MutexLock lock(parts_.order);
  if (batch_.has_stale()) return std::nullopt;
  const std::uint64_t offset = parts_.output->reserve(used_);
  locations_.clear();
  for (const Block& block : blocks_) {
    const std::uint64_t at = offset + block.at;
    for (std::uint32_t i = 0; i < block.head.count; ++i) {
      locations_.push_back(block.head.type == BlockType::kPacked
                               ? PageLocation::packed(at, i)
                               : PageLocation::raw(at + kBlockAlign + i * kPageSize));
    }
  }
  batch_.settle(locations_);
  return offset;
}

void PageLane::finish_blocks(std::uint64_t offset) {
  const std::span<const PageBatch::Staged> pages = batch_.pages();
  for (std::size_t slot = 0; slot < pages.size(); ++slot) {
    parts_.duplicates.note(pages[slot].hash, pages[slot].other, locations_[slot]);
  }
  for (Block& block : blocks_) {
    const std::span<std::byte> bytes = buffer_.subspan(block.at, block.head.length);
    const std::size_t table = table_bytes(block.head.count);
    for (std::uint32_t i = 0; i < block.head.count; ++i) {
      const PageBatch::Staged& page = pages[block.first + i];
      const TableEntry entry{page.page, page.hash};
      std::memcpy(bytes.data() + kBlockHeadBytes + i * kTableEntryBytes, &entry, sizeof(entry));
    }
    if (block.head.type == BlockType::kRaw) {
      std::memset(bytes.data() + table, 0, kBlockAlign - table);
    }
    block.head.offset = offset + block.at;
    seal_block(block.head, parts_.hasher, bytes);
  }
  parts_.blocks.fetch_add(blocks_.size(), std::memory_order_relaxed);
}

Status PageLane::flush() {
  if (open_) MIGRATE_TRY(end());
  parts_.memory_digest.fetch_add(digest_, std::memory_order_relaxed);
  digest_ = 0;
  return output_->flush();
}

}  // namespace migrate::checkpoint
