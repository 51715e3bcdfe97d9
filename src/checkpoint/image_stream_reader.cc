#include <algorithm>
#include <utility>

#include "base/guarded.hpp"
#include "checkpoint/image_chain.hpp"
#include "checkpoint/packed_block.hpp"
#include "checkpoint/stream_input.hpp"
#include "checkpoint/stream_pages.hpp"

namespace migrate::checkpoint {
namespace {

constexpr std::uint64_t kStateBytesMax = std::uint64_t{1} << 30;

Error broken(std::uint64_t at, const std::string& what) {
  return make_error(ErrorCode::kIntegrity,
                    "the image is damaged at byte " + std::to_string(at) + ": " + what)
      .advise("look at what sends it, and send it again");
}

}  // namespace

class ImageStreamReader::Impl {
 public:
  Impl(StreamInput input, FrameUnpacker unpacker)
      : input_(std::move(input)), unpacker_(std::move(unpacker)) {}

  Status begin() {
    std::vector<std::byte> block(kBlockAlign);
    MIGRATE_TRY(input_.read(block));
    MIGRATE_ASSIGN(header_, parse_header(block));
    if (header_.incremental()) {
      return make_error(ErrorCode::kUnsupported, "the image needs its parent, image " +
                                                     to_text(header_.parent) +
                                                     ", and cannot be read from a stream")
          .advise("make one full image of it first: migrate image flatten");
    }
    hasher_ = header_.hasher();
    MIGRATE_ASSIGN(const BlockHead head, next());
    if (head.type != BlockType::kDescription) return broken(head.offset, "no DESCRIPTION is there");
    MIGRATE_TRY(check_block(head, hasher_, block_));
    MIGRATE_ASSIGN(description_, parse_description(payload(head)));
    return {};
  }

  Result<End> read_all(const Memory& memory) {
    const wire::PageDigest digest(hasher_);
    StreamPages pages(description_.guest.regions, digest, memory);
    End end;
    MIGRATE_ASSIGN(BlockHead head, next());
    for (; head.type != BlockType::kIndex && head.type != BlockType::kDirectory;) {
      MIGRATE_TRY(take_content(head, digest, pages));
      MIGRATE_ASSIGN(head, next());
    }
    if (!state_whole_) return broken(head.offset, "the state's end is missing");
    MIGRATE_ASSIGN(end.state, parse_state(state_));
    while (head.type != BlockType::kDirectory) {
      if (head.type != BlockType::kIndex) return broken(head.offset, "an INDEX was expected");
      MIGRATE_TRY(check_block(head, hasher_, block_));
      MIGRATE_TRY(pages.index(
          head, {reinterpret_cast<const IndexEntry*>(block_.data() + kBlockAlign), head.count}));
      MIGRATE_ASSIGN(head, next());
    }
    MIGRATE_TRY(check_block(head, hasher_, block_));
    MIGRATE_ASSIGN(end.directory, parse_directory(payload(head), description_.guest.regions));
    if (end.directory.state_at != state_at_ || end.directory.state_bytes != state_.size()) {
      return broken(head.offset, "DIRECTORY contradicts the STATE that came");
    }
    MIGRATE_TRY(read_trailer(head, end.directory));
    MIGRATE_TRY(pages.finish(end.directory));
    MIGRATE_TRY(input_.expect_end());
    end.bytes = input_.offset();
    return end;
  }

  void interrupt() noexcept { input_.interrupt(); }
  [[nodiscard]] const ImageHeader& header() const { return header_; }
  [[nodiscard]] const ImageDescription& description() const { return description_; }

 private:
  /// The next block that is not to be skipped, whole, in block_; its hash is not checked yet.
  Result<BlockHead> next() {
    for (;;) {
      const std::uint64_t at = input_.offset();
      if (block_.size() < kBlockAlign) block_.resize(kBlockAlign);
      MIGRATE_TRY(input_.read(std::span(block_).first(kBlockHeadBytes)));
      MIGRATE_ASSIGN(const BlockHead head, get_head(std::span(block_).first<kBlockHeadBytes>(), at,
                                                    header_.id.short_form()));
      ++blocks_;
      if ((static_cast<std::uint16_t>(head.type) & kOptionalBlock) != 0) {
        MIGRATE_TRY(input_.skip(head.length - kBlockHeadBytes));
        continue;
      }
      if (block_.size() < head.length) block_.resize(head.length);
      MIGRATE_TRY(
          input_.read(std::span(block_).subspan(kBlockHeadBytes, head.length - kBlockHeadBytes)));
      return head;
    }
  }

  [[nodiscard]] std::span<const std::byte> payload(const BlockHead& head) const {
    return std::span(block_).subspan(head.payload_at(), head.payload);
  }

  Status take_content(const BlockHead& head, const wire::PageDigest& digest, StreamPages& pages) {
    switch (head.type) {
      case BlockType::kRaw:
      case BlockType::kPacked:
        MIGRATE_TRY(check_block(head, hasher_, block_));
        return take_pages(head, digest, pages);
      case BlockType::kState:
        MIGRATE_TRY(check_block(head, hasher_, block_));
        return take_state(head);
      default:
        return broken(head.offset, "a block stands where it must not");
    }
  }

  Status take_pages(const BlockHead& head, const wire::PageDigest& digest, StreamPages& pages) {
    const auto& regions = description_.guest.regions;
    if (head.region >= regions.size()) return broken(head.offset, "pages of no region");
    const auto table = table_of(head, block_);
    MIGRATE_TRY(check_table(head, table, regions[head.region].range.count));
    std::span<const std::byte> content = payload(head);
    const bool raw = head.type == BlockType::kRaw;
    if (!raw) {
      if (unpacked_.size() < head.count * kPageSize) unpacked_.resize(head.count * kPageSize);
      MIGRATE_TRY(unpacker_.unpack(head, content, unpacked_));
      content = unpacked_;
    }
    for (std::uint32_t i = 0; i < head.count; ++i) {
      const auto page = content.subspan(i * kPageSize, kPageSize);
      if (digest.hash(page) != table[i].hash) {
        return broken(head.offset, "the content of page " + std::to_string(table[i].page) +
                                       " in the block there does not have its hash");
      }
      const auto location = raw ? PageLocation::raw(head.offset + head.payload_at() + i * kPageSize)
                                : PageLocation::packed(head.offset, i);
      MIGRATE_TRY(pages.store(head.region, table[i].page, {location, table[i].hash}, page.data()));
    }
    return {};
  }

  Status take_state(const BlockHead& head) {
    if (state_whole_ || head.first != state_parts_ || head.payload > kStatePartBytesMax ||
        head.payload > kStateBytesMax - state_.size()) {
      return broken(head.offset, "this is not the STATE part that belongs there");
    }
    if (state_parts_++ == 0) state_at_ = head.offset;
    const auto part = payload(head);
    state_.insert(state_.end(), part.begin(), part.end());
    state_whole_ = (head.flags & kLastStatePart) != 0;
    return {};
  }

  Status read_trailer(const BlockHead& directory_head, const Directory& directory) {
    const std::uint64_t at = input_.offset();
    std::vector<std::byte> block(kBlockAlign);
    MIGRATE_TRY(input_.read(block));
    MIGRATE_ASSIGN(const Trailer trailer, parse_trailer(block, at));
    if (trailer.id != header_.id || trailer.directory_at != directory_head.offset ||
        trailer.directory_bytes != directory_head.length || trailer.digest != directory.digest ||
        trailer.blocks != blocks_ + 1) {
      return broken(at, "TRAILER contradicts the blocks that came");
    }
    return {};
  }

  StreamInput input_;
  FrameUnpacker unpacker_;
  ImageHeader header_;
  ImageDescription description_;
  wire::Hasher hasher_;
  std::vector<std::byte> block_;
  std::vector<std::byte> unpacked_;
  std::vector<std::byte> state_;
  std::uint64_t state_at_ = 0;
  std::uint64_t state_parts_ = 0;
  bool state_whole_ = false;
  std::uint64_t blocks_ = 1;  // The header was the first.
};

ImageStreamReader::ImageStreamReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ImageStreamReader::~ImageStreamReader() = default;

Result<std::unique_ptr<ImageStreamReader>> ImageStreamReader::create(int fd, int cancel_fd) {
  return guarded([&]() -> Result<std::unique_ptr<ImageStreamReader>> {
    MIGRATE_ASSIGN(StreamInput input, StreamInput::create(fd, cancel_fd));
    MIGRATE_ASSIGN(FrameUnpacker unpacker, FrameUnpacker::create());
    auto impl = std::make_unique<Impl>(std::move(input), std::move(unpacker));
    MIGRATE_TRY(impl->begin());
    return std::unique_ptr<ImageStreamReader>(new ImageStreamReader(std::move(impl)));
  });
}

const ImageHeader& ImageStreamReader::header() const { return impl_->header(); }
const ImageDescription& ImageStreamReader::description() const { return impl_->description(); }

Result<ImageStreamReader::End> ImageStreamReader::read_all(const Memory& memory) {
  return guarded([&] { return impl_->read_all(memory); });
}

void ImageStreamReader::interrupt() noexcept { impl_->interrupt(); }

}  // namespace migrate::checkpoint
