// BlockCheck: all blocks of one image file, each read whole and checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "checkpoint/image_file.hpp"
#include "checkpoint/packed_block.hpp"

namespace migrate::checkpoint {

/// The heads of all blocks, which lie side by side from the file's first byte to its last, in an
/// order that the format allows; as many as the trailer says.
Result<std::vector<BlockHead>> all_blocks(const OpenImage& file);

/// One thread's.
class BlockCheck {
 public:
  static Result<BlockCheck> create(const OpenImage& file);
  /// Hashes all of the block, and each page in it; what no hash covers must be zero. Adds where
  /// its pages are, and their hashes, to `stored`. kIntegrity with file and byte.
  Status check(const BlockHead& head, std::vector<IndexEntry>& stored);

 private:
  BlockCheck(const OpenImage& file, FrameUnpacker unpacker)
      : file_(&file), unpacker_(std::move(unpacker)) {}
  Status check_rest(const BlockHead& head) const;
  Status check_pages(const BlockHead& head, std::vector<IndexEntry>& stored);

  const OpenImage* file_;
  FrameUnpacker unpacker_;
  std::vector<std::byte> block_;
  std::vector<std::byte> unpacked_;
};

}  // namespace migrate::checkpoint
