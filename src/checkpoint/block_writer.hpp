// BlockWriter: an image's blocks, one after the other, while nobody else writes any.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "checkpoint/image_format.hpp"
#include "checkpoint/image_output.hpp"

namespace migrate::checkpoint {

/// Payload, what it leaves, head and hash of a block without a table.
inline void fill_block(const BlockHead& head, std::span<const std::byte> payload,
                       const wire::Hasher& hasher, std::span<std::byte> block) {
  std::ranges::fill(block, std::byte{0});
  std::ranges::copy(payload, block.subspan(head.payload_at()).begin());
  seal_block(head, hasher, block);
}

/// Many small blocks are written at once. One thread's.
class BlockWriter {
 public:
  static Result<BlockWriter> create(ImageOutput& output) {
    MIGRATE_ASSIGN(auto lane, output.make_lane());
    return BlockWriter(output, std::move(lane));
  }

  /// Room for the next block, all zero.
  Result<std::span<std::byte>> room(std::uint64_t bytes) {
    if (used_ > 0 && used_ + bytes > buffer_.size()) MIGRATE_TRY(write());
    if (used_ == 0) {
      MIGRATE_ASSIGN(buffer_, lane_->buffer(std::max<std::uint64_t>(bytes, kWriteBytes)));
    }
    const auto block = buffer_.subspan(used_, bytes);
    std::ranges::fill(block, std::byte{0});
    used_ += bytes;
    return block;
  }
  /// A block without a table; its place is filled in.
  Status block(BlockHead head, std::span<const std::byte> payload, const wire::Hasher& hasher) {
    MIGRATE_ASSIGN(const auto into, room(head.length));
    head.offset = end() - head.length;
    fill_block(head, payload, hasher, into);
    return {};
  }
  /// Where the latest block ends in the file.
  [[nodiscard]] std::uint64_t end() const { return written_ + used_; }
  Status flush() {
    MIGRATE_TRY(write());
    return lane_->flush();
  }

 private:
  static constexpr std::size_t kWriteBytes = 1 << 20;

  BlockWriter(ImageOutput& output, std::unique_ptr<ImageOutput::Lane> lane)
      : output_(&output), lane_(std::move(lane)), written_(output.reserve(0)) {}

  Status write() {
    if (used_ == 0) return {};
    const std::uint64_t offset = output_->reserve(used_);
    // Else the blocks are elsewhere than was said.
    MIGRATE_CHECK(offset == written_);
    written_ += used_;
    return lane_->write(offset, std::exchange(used_, 0));
  }

  ImageOutput* output_;
  std::unique_ptr<ImageOutput::Lane> lane_;
  std::span<std::byte> buffer_;
  std::size_t used_ = 0;
  std::uint64_t written_;
};

}  // namespace migrate::checkpoint
