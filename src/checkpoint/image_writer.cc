#include "checkpoint/image_writer.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/guarded.hpp"
#include "base/random_bytes.hpp"
#include "checkpoint/block_writer.hpp"
#include "checkpoint/image_parts.hpp"

namespace migrate::checkpoint {
namespace {

Result<wire::Hasher> random_hasher() {
  wire::SessionRandom first, second;
  MIGRATE_TRY(fill_random(first.bytes));
  MIGRATE_TRY(fill_random(second.bytes));
  return wire::Hasher(first, second);
}

Status check_base(const ImageHeader& header, const ImageDescription& description,
                  const ImageChain* base) {
  if (base == nullptr) {
    MIGRATE_CHECK(!header.incremental());
    return {};
  }
  const ImageHeader& parent = base->top().header();
  MIGRATE_CHECK(header.parent == parent.id && header.secret == parent.secret);
  const auto same = [](const Region& a, const Region& b) {
    return a.id == b.id && a.range == b.range;
  };
  if (!may_change_layout(description.guest.kind, base->top().description().guest.kind) &&
      !std::ranges::equal(description.guest.regions, base->regions(), same)) {
    return make_error(ErrorCode::kIncompatible,
                      "the guest's memory is laid out otherwise than in " + base->top().path())
        .advise("take a full checkpoint (without a base)");
  }
  if (base->files().size() >= kChainMax) {
    return make_error(ErrorCode::kUnsupported, "the chain of " + base->top().path() + " has " +
                                                   std::to_string(kChainMax) +
                                                   " images, and takes no more")
        .advise("flatten it (migrate image flatten), or take a full checkpoint");
  }
  return {};
}

}  // namespace

class ImageWriter::Impl {
 public:
  Impl(std::unique_ptr<ImageOutput> output, const ImageHeader& header,
       const ImageDescription& description, std::uint64_t pages, Options options,
       const wire::Hasher& other)
      : options_(std::move(options)),
        parts_(std::move(output), header, description.guest.regions, pages, options_, other) {}

  Status begin(const ImageDescription& description);
  Result<std::unique_ptr<Lane>> make_lane() { return make_page_lane(parts_); }
  Status state(std::span<const Section> sections);
  Result<Written> seal();
  Status publish() { return parts_.output->publish(); }
  void interrupt() noexcept { parts_.output->interrupt(); }

 private:
  [[nodiscard]] BlockHead head_of(BlockType type, std::uint64_t payload) const;
  Result<std::vector<Directory::Part>> write_index(BlockWriter& out, std::size_t region);
  Result<Directory::Part> write_part(BlockWriter& out, std::size_t region, std::size_t part);
  Result<Trailer> write_directory(BlockWriter& out);

  const Options options_;
  ImageParts parts_;
  Directory directory_;  // Of the thread that calls state() or seal().
};

BlockHead ImageWriter::Impl::head_of(BlockType type, std::uint64_t payload) const {
  BlockHead head;
  head.type = type;
  head.image = parts_.header.id.short_form();
  head.payload = payload;
  head.length = head.needed();
  return head;
}

Status ImageWriter::Impl::begin(const ImageDescription& description) {
  MIGRATE_ASSIGN(const std::vector<std::byte> payload, description_payload(description));
  const BlockHead head = head_of(BlockType::kDescription, payload.size());
  if (head.length > kBlockBytesMax) {
    return make_error(ErrorCode::kUnsupported, "the guest's description has " +
                                                   std::to_string(payload.size()) +
                                                   " bytes, more than an image has room for");
  }
  MIGRATE_ASSIGN(BlockWriter out, BlockWriter::create(*parts_.output));
  MIGRATE_ASSIGN(const std::span<std::byte> first, out.room(kBlockAlign));
  std::ranges::copy(header_block(parts_.header), first.begin());
  MIGRATE_TRY(out.block(head, payload, parts_.hasher));
  parts_.blocks += 2;
  return out.flush();
}

Status ImageWriter::Impl::state(std::span<const Section> sections) {
  const std::vector<std::byte> payload = state_payload(sections);
  MIGRATE_CHECK(directory_.state_at == 0);
  directory_.state_bytes = payload.size();
  MIGRATE_ASSIGN(const auto lane, parts_.output->make_lane());
  std::span<const std::byte> left = payload;
  // At least one part, which is the last one.
  for (std::uint64_t number = 0; number == 0 || !left.empty(); ++number) {
    const auto part = left.first(std::min(left.size(), kStatePartBytesMax));
    left = left.subspan(part.size());
    BlockHead head = head_of(BlockType::kState, part.size());
    head.first = number;
    head.flags = left.empty() ? kLastStatePart : 0;
    MIGRATE_ASSIGN(const std::span<std::byte> buffer, lane->buffer(head.length));
    head.offset = parts_.output->reserve(head.length);
    fill_block(head, part, parts_.hasher, buffer.first(head.length));
    if (number == 0) directory_.state_at = head.offset;
    ++parts_.blocks;
    MIGRATE_TRY(lane->write(head.offset, head.length));
  }
  return lane->flush();
}

Result<Directory::Part> ImageWriter::Impl::write_part(BlockWriter& out, std::size_t region,
                                                      std::size_t part) {
  const PageIndex::Part pages = parts_.index.part(region, part);
  if (pages.records.empty()) return Directory::Part{pages.where, 0};
  BlockHead head;
  head.type = BlockType::kIndex;
  head.region = static_cast<std::uint16_t>(region);
  head.image = parts_.header.id.short_form();
  head.count = static_cast<std::uint32_t>(pages.records.size());
  head.first = part * kPagesPerIndex;
  head.payload = pages.records.size_bytes();
  head.length = head.needed();
  MIGRATE_ASSIGN(const std::span<std::byte> block, out.room(head.length));
  head.offset = out.end() - head.length;
  std::byte* to = block.data() + head.payload_at();
  for (const PageRecord& record : pages.records) {
    if (record.is_pending()) {
      return make_error(ErrorCode::kInternal, "a page was added to the image and not written");
    }
    const IndexEntry entry{record.location(), record.hash()};
    std::memcpy(to, &entry, sizeof(entry));
    to += sizeof(entry);
  }
  seal_block(head, parts_.hasher, block);
  ++parts_.blocks;
  MIGRATE_ASSIGN(const BlockHead sealed,
                 get_head(block.first<kBlockHeadBytes>(), head.offset, head.image));
  return Directory::Part{head.offset, sealed.hash};
}

Result<std::vector<Directory::Part>> ImageWriter::Impl::write_index(BlockWriter& out,
                                                                    std::size_t region) {
  std::vector<Directory::Part> parts;
  parts.reserve(parts_.index.parts(region));
  for (std::size_t part = 0; part < parts_.index.parts(region); ++part) {
    MIGRATE_ASSIGN(const Directory::Part one, write_part(out, region, part));
    parts.push_back(one);
  }
  return parts;
}

Result<Trailer> ImageWriter::Impl::write_directory(BlockWriter& out) {
  const std::vector<std::byte> payload = directory_payload(directory_);
  BlockHead head = head_of(BlockType::kDirectory, payload.size());
  if (head.length > kBlockBytesMax) {
    return make_error(ErrorCode::kUnsupported, "the guest has more memory than an image can index");
  }
  MIGRATE_TRY(out.block(head, payload, parts_.hasher));
  parts_.blocks += 2;
  const Trailer trailer{.directory_at = out.end() - head.length,
                        .directory_bytes = head.length,
                        .file_bytes = out.end() + kBlockAlign,
                        .digest = directory_.digest,
                        .id = parts_.header.id,
                        .blocks = parts_.blocks};
  MIGRATE_ASSIGN(const std::span<std::byte> last, out.room(kBlockAlign));
  std::ranges::copy(trailer_block(trailer, trailer.file_bytes - kBlockAlign), last.begin());
  return trailer;
}

Result<ImageWriter::Written> ImageWriter::Impl::seal() {
  // Every image has device state, if only none.
  if (directory_.state_at == 0) MIGRATE_TRY(state({}));
  MIGRATE_TRY(parts_.index.settle());
  MIGRATE_ASSIGN(BlockWriter out, BlockWriter::create(*parts_.output));
  for (std::size_t region = 0; region < parts_.index.regions(); ++region) {
    MIGRATE_ASSIGN(auto parts, write_index(out, region));
    directory_.regions.push_back(std::move(parts));
  }
  directory_.pages = parts_.index.counts();
  directory_.digest = parts_.memory_digest;
  if (parts_.base) {
    MIGRATE_ASSIGN(const std::uint64_t before, parts_.base->memory_digest());
    directory_.digest += before;
  }
  MIGRATE_ASSIGN(const Trailer trailer, write_directory(out));
  MIGRATE_TRY(out.flush());
  return Written{directory_.pages, trailer.digest, trailer.file_bytes};
}

ImageWriter::ImageWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ImageWriter::~ImageWriter() = default;

Result<std::unique_ptr<ImageWriter>> ImageWriter::create(std::unique_ptr<ImageOutput> output,
                                                         const ImageHeader& header,
                                                         const ImageDescription& description,
                                                         Options options) {
  return guarded([&]() -> Result<std::unique_ptr<ImageWriter>> {
    MIGRATE_TRY(check_base(header, description, options.base.get()));
    MIGRATE_ASSIGN(const wire::Hasher other, random_hasher());
    std::uint64_t pages = 0;
    for (const Region& region : description.guest.regions) pages += region.range.count;
    auto impl = std::make_unique<Impl>(std::move(output), header, description, pages,
                                       std::move(options), other);
    MIGRATE_TRY(impl->begin(description));
    return std::unique_ptr<ImageWriter>(new ImageWriter(std::move(impl)));
  });
}

Result<std::unique_ptr<ImageWriter::Lane>> ImageWriter::make_lane() {
  return guarded([this] { return impl_->make_lane(); });
}
Status ImageWriter::state(std::span<const Section> sections) {
  return guarded([&] { return impl_->state(sections); });
}
Result<ImageWriter::Written> ImageWriter::seal() {
  return guarded([this] { return impl_->seal(); });
}

Status ImageWriter::publish() {
  return guarded([this] { return impl_->publish(); });
}

Result<ImageWriter::Written> ImageWriter::finish() {
  MIGRATE_ASSIGN(const Written written, seal());
  MIGRATE_TRY(publish());
  return written;
}
void ImageWriter::interrupt() noexcept { impl_->interrupt(); }

Result<ImageHeader> new_header(const ImageChain* base) {
  ImageHeader header;
  while (header.id.none()) MIGRATE_TRY(fill_random(header.id.bytes));
  if (base != nullptr) {
    header.parent = base->top().header().id;
    header.secret = base->top().header().secret;
  } else {
    MIGRATE_TRY(fill_random(header.secret.first.bytes));
    MIGRATE_TRY(fill_random(header.secret.second.bytes));
  }
  header.created_ns = static_cast<std::uint64_t>(
      std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count());
  return header;
}

std::string host_text() {
  utsname names{};
  std::string text;
  if (::uname(&names) == 0) {
    text = std::string(names.sysname) + " " + names.release + " " + names.machine;
  }
  std::ifstream cpus("/proc/cpuinfo");
  constexpr std::string_view kKey = "model name";
  for (std::string line; std::getline(cpus, line);) {
    if (!line.starts_with(kKey)) continue;
    const auto colon = line.find(": ");
    if (colon != std::string::npos) text += ", " + line.substr(colon + 2);
    break;
  }
  return text;
}

}  // namespace migrate::checkpoint
