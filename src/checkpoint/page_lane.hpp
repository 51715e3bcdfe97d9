// PageLane: pages into RAW and PACKED blocks.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "checkpoint/image_parts.hpp"
#include "checkpoint/page_batch.hpp"
#include "transport/compression_policy.hpp"
#include "wire/packing.hpp"

namespace migrate::checkpoint {

class PageLane final : public ImageWriter::Lane {
 public:
  static Result<std::unique_ptr<PageLane>> create(ImageParts& parts);

  Status add(std::uint16_t region, std::uint64_t page, const std::byte* content) override;
  Status add_zero(std::uint16_t region, std::uint64_t page) override;
  Status flush() override;

 private:
  using Clock = std::chrono::steady_clock;

  // A lazy restore unpacks a whole frame for one fault.
  static constexpr std::uint32_t kPagesPerFrame = 64;
  static constexpr std::size_t kFramesMax =
      (PageBatch::kPagesMax + kPagesPerFrame - 1) / kPagesPerFrame;
  // A batch whose frames all turned out not to shrink, each with a head of its own.
  static constexpr std::size_t kBufferBytes = PageBatch::kBytesMax + kFramesMax * kBlockAlign;

  struct Block {
    BlockHead head;
    std::size_t at = 0;       // In the buffer.
    std::uint32_t first = 0;  // Slot of its first page.
  };

  PageLane(ImageParts& parts, std::unique_ptr<ImageOutput::Lane> output, wire::ZstdPacker packer);
  Status begin(std::uint16_t region);
  Status end();
  /// The batch's blocks in the buffer, but for what their place decides.
  Status make_blocks();
  Result<bool> should_pack();
  Result<std::size_t> pack_sample(int level);
  void add_raw(std::uint32_t first, std::uint32_t count);
  Status add_frame(std::uint32_t first, std::uint32_t count);
  /// Reserves the blocks' place and tells the index; nothing when a page was added again meanwhile.
  std::optional<std::uint64_t> take_place() MIGRATE_EXCLUDES(parts_.order);
  void finish_blocks(std::uint64_t offset);
  void note_change(std::uint16_t region, std::uint64_t page, const PageRecord& before,
                   std::uint64_t hash);

  ImageParts& parts_;
  const std::unique_ptr<ImageOutput::Lane> output_;
  wire::ZstdPacker packer_;
  CompressionPolicy policy_;
  CompressionPolicy::Plan plan_;
  CompressionPolicy::Batch measured_;
  Clock::time_point begun_;
  std::uint64_t digest_ = 0;  // How this lane has changed memory's, since the last flush.

  bool open_ = false;
  PageBatch batch_;
  std::span<std::byte> buffer_;  // The output's; empty: not asked for yet.
  AlignedBuffer staging_;        // Where pages are staged that are to be packed.
  std::vector<Block> blocks_;
  std::size_t used_ = 0;  // Of the buffer.
  std::vector<PageLocation> locations_;
};

}  // namespace migrate::checkpoint
