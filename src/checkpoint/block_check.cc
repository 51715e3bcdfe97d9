#include "checkpoint/block_check.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace migrate::checkpoint {
namespace {

bool may_be_skipped(const BlockHead& head) {
  return (static_cast<std::uint16_t>(head.type) & kOptionalBlock) != 0;
}

/// The parts of a file that follow each other.
enum class Stage { kHeader, kDescription, kContent, kIndex, kDirectory, kTrailer };

Stage stage_of(BlockType type) {
  switch (type) {
    case BlockType::kHeader:
      return Stage::kHeader;
    case BlockType::kDescription:
      return Stage::kDescription;
    case BlockType::kIndex:
      return Stage::kIndex;
    case BlockType::kDirectory:
      return Stage::kDirectory;
    case BlockType::kTrailer:
      return Stage::kTrailer;
    default:
      return Stage::kContent;
  }
}

bool may_follow(Stage before, Stage now) {
  if (now == before) return now == Stage::kContent || now == Stage::kIndex;
  if (now == Stage::kDirectory) return before == Stage::kContent || before == Stage::kIndex;
  return static_cast<int>(now) == static_cast<int>(before) + 1;
}

}  // namespace

Result<std::vector<BlockHead>> all_blocks(const OpenImage& file) {
  std::vector<BlockHead> blocks;
  const std::uint64_t end = file.trailer().file_bytes;
  Stage stage = Stage::kHeader;
  std::array<std::byte, kBlockHeadBytes> bytes;
  for (std::uint64_t at = 0; at < end; at += blocks.back().length) {
    MIGRATE_TRY(read_at(file, at, bytes));
    auto head = get_head(bytes, at, file.header().id.short_form());
    if (!head) return in_file(file.path(), head.error());
    if (head->length > end - at || head->needed() > head->length) {
      return damaged(file.path(), at, "a block does not fit into its place");
    }
    if (!may_be_skipped(*head)) {
      const Stage now = stage_of(head->type);
      if (!blocks.empty() && !may_follow(stage, now)) {
        return damaged(file.path(), at, "a block stands where it must not");
      }
      stage = now;
    }
    blocks.push_back(*head);
  }
  if (blocks.size() != file.trailer().blocks) {
    return damaged(file.path(), end - kBlockAlign,
                   "TRAILER says " + std::to_string(file.trailer().blocks) +
                       " blocks; the file has " + std::to_string(blocks.size()));
  }
  return blocks;
}

Result<BlockCheck> BlockCheck::create(const OpenImage& file) {
  MIGRATE_ASSIGN(FrameUnpacker unpacker, FrameUnpacker::create());
  return BlockCheck(file, std::move(unpacker));
}

Status BlockCheck::check_rest(const BlockHead& head) const {
  const auto zeros = [&](std::uint64_t from, std::uint64_t to) -> Status {
    const auto part = std::span(block_).subspan(from, to - from);
    const auto other =
        std::find_if(part.begin(), part.end(), [](std::byte byte) { return byte != std::byte{0}; });
    if (other == part.end()) return {};
    return damaged(file_->path(),
                   head.offset + from + static_cast<std::uint64_t>(other - part.begin()),
                   "there is something between the blocks' contents");
  };
  if (head.type == BlockType::kRaw) MIGRATE_TRY(zeros(head.hashed_bytes(), head.payload_at()));
  return zeros(head.payload_at() + head.payload, head.length);
}

Status BlockCheck::check_pages(const BlockHead& head, std::vector<IndexEntry>& stored) {
  const auto& regions = file_->description().guest.regions;
  if (head.region >= regions.size()) {
    return damaged(file_->path(), head.offset, "pages of no region");
  }
  const auto table = table_of(head, block_);
  if (Status status = check_table(head, table, regions[head.region].range.count); !status) {
    return in_file(file_->path(), status.error());
  }
  std::span<const std::byte> content = std::span(block_).subspan(head.payload_at(), head.payload);
  const bool raw = head.type == BlockType::kRaw;
  if (!raw) {
    unpacked_.resize(head.count * kPageSize);
    if (Status status = unpacker_.unpack(head, content, unpacked_); !status) {
      return in_file(file_->path(), status.error());
    }
    content = unpacked_;
  }
  for (std::uint32_t i = 0; i < head.count; ++i) {
    const std::uint64_t at = head.offset + head.payload_at() + (raw ? i * kPageSize : 0);
    if (file_->digest().hash(content.subspan(i * kPageSize, kPageSize)) != table[i].hash) {
      return damaged(file_->path(), at,
                     "the content of page " + std::to_string(table[i].page) +
                         (raw ? "" : " in the PACKED block there") + " does not have its hash");
    }
    stored.push_back(
        {raw ? PageLocation::raw(at) : PageLocation::packed(head.offset, i), table[i].hash});
  }
  return {};
}

Status BlockCheck::check(const BlockHead& head, std::vector<IndexEntry>& stored) {
  block_.resize(head.length);
  MIGRATE_TRY(read_at(*file_, head.offset, block_));
  if (Status status = check_block(head, file_->hasher(), block_); !status) {
    return in_file(file_->path(), status.error());
  }
  MIGRATE_TRY(check_rest(head));
  const bool pages = head.type == BlockType::kRaw || head.type == BlockType::kPacked;
  return pages ? check_pages(head, stored) : Status();
}

}  // namespace migrate::checkpoint
