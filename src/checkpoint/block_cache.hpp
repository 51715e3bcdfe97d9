// BlockCache: PACKED blocks of a chain, read, checked and unpacked; the latest few are kept.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/image_file.hpp"
#include "checkpoint/packed_block.hpp"

namespace migrate::checkpoint {

/// One thread's.
class BlockCache {
 public:
  static Result<BlockCache> create();

  struct Block {
    const OpenImage* file = nullptr;
    BlockHead head;
    std::vector<TableEntry> table;
    std::vector<std::byte> pages;
    std::uint64_t used = 0;
  };
  /// The block that begins at `at`. Its table is right; pages have yet to be hashed. Valid until
  /// the next call.
  Result<const Block*> get(const OpenImage& file, std::uint64_t at);

  [[nodiscard]] std::uint64_t bytes_read() const { return bytes_read_; }

 private:
  explicit BlockCache(FrameUnpacker unpacker) : unpacker_(std::move(unpacker)) {}
  Status load(const OpenImage& file, std::uint64_t at, Block& into);

  FrameUnpacker unpacker_;
  // Windows of pages begin and end within blocks, and a block's neighbour in memory may be another
  // lane's; equal pages lead back to blocks that were used before.
  std::array<Block, 4> blocks_;
  std::vector<std::byte> packed_;
  std::uint64_t uses_ = 0;
  std::uint64_t bytes_read_ = 0;
};

}  // namespace migrate::checkpoint
