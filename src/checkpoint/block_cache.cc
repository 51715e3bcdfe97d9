#include "checkpoint/block_cache.hpp"

#include <algorithm>
#include <utility>

namespace migrate::checkpoint {

Result<BlockCache> BlockCache::create() {
  MIGRATE_ASSIGN(FrameUnpacker unpacker, FrameUnpacker::create());
  return BlockCache(std::move(unpacker));
}

Result<const BlockCache::Block*> BlockCache::get(const OpenImage& file, std::uint64_t at) {
  const auto known = std::find_if(blocks_.begin(), blocks_.end(), [&](const Block& block) {
    return block.file == &file && block.head.offset == at;
  });
  if (known != blocks_.end()) {
    known->used = ++uses_;
    return &*known;
  }
  Block& oldest = *std::min_element(blocks_.begin(), blocks_.end(),
                                    [](const Block& a, const Block& b) { return a.used < b.used; });
  oldest.file = nullptr;
  MIGRATE_TRY(load(file, at, oldest));
  oldest.file = &file;
  oldest.used = ++uses_;
  return &oldest;
}

Status BlockCache::load(const OpenImage& file, std::uint64_t at, Block& into) {
  MIGRATE_ASSIGN(into.head, file.head(at));
  const BlockHead& head = into.head;
  if (head.type != BlockType::kPacked) return damaged(file.path(), at, "no PACKED begins there");
  packed_.resize(head.length);
  MIGRATE_TRY(read_at(file, at, packed_));
  bytes_read_ += head.length;
  if (Status status = check_block(head, file.hasher(), packed_); !status) {
    return in_file(file.path(), status.error());
  }
  const auto table = table_of(head, packed_);
  into.table.assign(table.begin(), table.end());
  into.pages.resize(head.count * kPageSize);
  Status status = unpacker_.unpack(
      head, std::span(packed_).subspan(head.payload_at(), head.payload), into.pages);
  if (!status) return in_file(file.path(), status.error());
  return {};
}

}  // namespace migrate::checkpoint
