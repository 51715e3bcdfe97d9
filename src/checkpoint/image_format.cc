#include "checkpoint/image_format.hpp"

#include <bit>
#include <cstring>

namespace migrate::checkpoint {
namespace {

constexpr std::uint32_t kMagic = 0x4b4c424d;
constexpr std::size_t kHashAt = 56;
constexpr std::uint64_t kHeaderPayloadBytes = 248;
constexpr std::uint64_t kTrailerPayloadBytes = 56;

Error broken(std::uint64_t at, const std::string& what) {
  return make_error(ErrorCode::kIntegrity,
                    "the image is damaged at byte " + std::to_string(at) + ": " + what)
      .advise("take another copy of it, or an older checkpoint");
}

template <typename T>
void put(std::span<std::byte> into, std::size_t at, T value) {
  std::memcpy(into.data() + at, &value, sizeof(value));
}
template <typename T>
T get(std::span<const std::byte> from, std::size_t at) {
  T value;
  std::memcpy(&value, from.data() + at, sizeof(value));
  return value;
}

std::string name_of(BlockType type) {
  switch (type) {
    case BlockType::kHeader:
      return "HEADER";
    case BlockType::kDescription:
      return "DESCRIPTION";
    case BlockType::kRaw:
      return "RAW";
    case BlockType::kPacked:
      return "PACKED";
    case BlockType::kState:
      return "STATE";
    case BlockType::kIndex:
      return "INDEX";
    case BlockType::kDirectory:
      return "DIRECTORY";
    case BlockType::kTrailer:
      return "TRAILER";
  }
  return "type " + std::to_string(static_cast<unsigned>(type));
}

bool known(BlockType type) { return type >= BlockType::kHeader && type <= BlockType::kTrailer; }

bool of_pages(BlockType type) { return type == BlockType::kRaw || type == BlockType::kPacked; }

/// Kept apart from `hasher` where it is needed before the secret is known.
std::uint64_t hash_of(const BlockHead& head, const wire::Hasher& hasher,
                      std::span<const std::byte> block) {
  static const wire::Hasher kUnkeyed;
  const bool plain = head.type == BlockType::kHeader || head.type == BlockType::kTrailer;
  const wire::Hasher& by = plain ? kUnkeyed : hasher;
  std::array<std::byte, kBlockHeadBytes> bytes;
  std::memcpy(bytes.data(), block.data(), kHashAt);
  put(std::span<std::byte>(bytes), kHashAt,
      by.hash(block.subspan(kBlockHeadBytes, head.hashed_bytes() - kBlockHeadBytes)));
  return by.hash(bytes);
}

/// What a head of this type may say, but for the content.
std::optional<std::string> wrong(const BlockHead& head) {
  if (head.length == 0 || head.length % kBlockAlign != 0)
    return "its length is no multiple of 4096";
  const bool small = of_pages(head.type) || head.type == BlockType::kIndex;
  if (head.length > (small ? kPagesBlockBytesMax : kBlockBytesMax)) return "it is too long";
  if (head.payload > head.length) return "its payload is longer than itself";
  if (of_pages(head.type)) {
    if (head.count == 0 || head.count > kPagesPerBlockMax) return "it has a wrong number of pages";
    if (head.type == BlockType::kRaw && head.payload != head.count * kBlockAlign) {
      return "its payload is not as long as its pages";
    }
  }
  if (head.type == BlockType::kIndex &&
      (head.count == 0 || head.count > kPagesPerIndex || head.first % kPagesPerIndex != 0 ||
       head.payload != head.count * sizeof(IndexEntry))) {
    return "it has a wrong number of entries";
  }
  if (known(head.type) && head.needed() != head.length) return "its length is wrong";
  return {};
}

}  // namespace

std::uint64_t ImageId::short_form() const { return get<std::uint64_t>(bytes, 0); }

std::string to_text(const ImageId& id) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : id.bytes) {
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

std::uint64_t BlockHead::payload_at() const {
  const std::uint64_t table = kBlockHeadBytes + std::uint64_t{count} * kTableEntryBytes;
  switch (type) {
    case BlockType::kRaw:
      return aligned_up(table);
    case BlockType::kPacked:
      return table;
    case BlockType::kIndex:
      return kBlockAlign;
    default:
      return kBlockHeadBytes;
  }
}

std::uint64_t BlockHead::hashed_bytes() const {
  if (of_pages(type)) return kBlockHeadBytes + std::uint64_t{count} * kTableEntryBytes;
  return payload_at() + payload;
}

void put_head(const BlockHead& head, std::span<std::byte, kBlockHeadBytes> into) {
  put(into, 0, kMagic);
  put(into, 4, static_cast<std::uint16_t>(head.type));
  put(into, 6, head.region);
  put(into, 8, head.length);
  put(into, 16, head.offset);
  put(into, 24, head.image);
  put(into, 32, head.count);
  put(into, 36, head.flags);
  put(into, 40, head.first);
  put(into, 48, head.payload);
  put(into, kHashAt, head.hash);
}

Result<BlockHead> get_head(std::span<const std::byte, kBlockHeadBytes> bytes, std::uint64_t at,
                           std::uint64_t image) {
  if (get<std::uint32_t>(bytes, 0) != kMagic) return broken(at, "no block begins there");
  BlockHead head;
  head.type = static_cast<BlockType>(get<std::uint16_t>(bytes, 4));
  head.region = get<std::uint16_t>(bytes, 6);
  head.length = get<std::uint64_t>(bytes, 8);
  head.offset = get<std::uint64_t>(bytes, 16);
  head.image = get<std::uint64_t>(bytes, 24);
  head.count = get<std::uint32_t>(bytes, 32);
  head.flags = get<std::uint32_t>(bytes, 36);
  head.first = get<std::uint64_t>(bytes, 40);
  head.payload = get<std::uint64_t>(bytes, 48);
  head.hash = get<std::uint64_t>(bytes, kHashAt);
  if (head.offset != at) {
    return broken(at, "the block there belongs to byte " + std::to_string(head.offset));
  }
  if (image != 0 && head.image != image) return broken(at, "the block there is another image's");
  if (!known(head.type) && (static_cast<std::uint16_t>(head.type) & kOptionalBlock) == 0) {
    return make_error(ErrorCode::kUnsupported,
                      "the image has a block of unknown type " +
                          std::to_string(static_cast<unsigned>(head.type)) + " at byte " +
                          std::to_string(at))
        .advise("use the version of migrate that wrote it");
  }
  if (auto what = wrong(head)) return broken(at, name_of(head.type) + ": " + *what);
  return head;
}

void seal_block(BlockHead head, const wire::Hasher& hasher, std::span<std::byte> block) {
  MIGRATE_CHECK(block.size() >= head.length && head.length == head.needed());
  put_head(head, block.first<kBlockHeadBytes>());
  put(block, kHashAt, hash_of(head, hasher, block));
}

Status check_block(const BlockHead& head, const wire::Hasher& hasher,
                   std::span<const std::byte> block) {
  MIGRATE_CHECK(block.size() >= head.hashed_bytes());
  if (hash_of(head, hasher, block) == head.hash) return {};
  return broken(head.offset, name_of(head.type) + " does not have its hash");
}

std::vector<std::byte> header_block(const ImageHeader& header) {
  std::vector<std::byte> block(kBlockAlign);
  const std::span<std::byte> into = std::span(block).subspan(kBlockHeadBytes);
  put(into, 0, kImageVersion);
  put(into, 4, static_cast<std::uint32_t>(kBlockAlign));
  put(into, 8, header.id.bytes);
  put(into, 24, header.parent.bytes);
  put(into, 40, header.secret.first.bytes);
  put(into, 136, header.secret.second.bytes);
  put(into, 232, header.created_ns);
  put(into, 240, std::uint32_t{header.incremental()});
  seal_block({.type = BlockType::kHeader,
              .length = kBlockAlign,
              .image = header.id.short_form(),
              .payload = kHeaderPayloadBytes},
             {}, block);
  return block;
}

Result<ImageHeader> parse_header(std::span<const std::byte> block) {
  if (block.size() < kBlockAlign || get<std::uint32_t>(block, 0) != kMagic) {
    return make_error(ErrorCode::kInvalidArgument, "this is no checkpoint image")
        .advise("give a file that `migrate checkpoint` has written");
  }
  // Another version may have another header: told first, as long as the bytes are in order.
  const auto version = get<std::uint32_t>(block, kBlockHeadBytes);
  if (version != kImageVersion) {
    return make_error(ErrorCode::kVersionMismatch,
                      "the image has format version " + std::to_string(version) +
                          "; this program reads version " + std::to_string(kImageVersion))
        .advise("use a version of migrate that reads it");
  }
  MIGRATE_ASSIGN(const BlockHead head, get_head(block.first<kBlockHeadBytes>(), 0, 0));
  if (head.type != BlockType::kHeader || head.length != kBlockAlign ||
      head.payload != kHeaderPayloadBytes) {
    return broken(0, "it does not begin with a HEADER");
  }
  MIGRATE_TRY(check_block(head, {}, block));
  const std::span<const std::byte> from = block.subspan(kBlockHeadBytes);
  if (get<std::uint32_t>(from, 4) != kBlockAlign) {
    return make_error(ErrorCode::kUnsupported, "the image has pages of " +
                                                   std::to_string(get<std::uint32_t>(from, 4)) +
                                                   " bytes; this program has pages of 4096");
  }
  ImageHeader header;
  header.id.bytes = get<decltype(header.id.bytes)>(from, 8);
  header.parent.bytes = get<decltype(header.parent.bytes)>(from, 24);
  header.secret.first.bytes = get<decltype(header.secret.first.bytes)>(from, 40);
  header.secret.second.bytes = get<decltype(header.secret.second.bytes)>(from, 136);
  header.created_ns = get<std::uint64_t>(from, 232);
  if (header.id.none() || header.id.short_form() != head.image || header.id == header.parent ||
      get<std::uint32_t>(from, 240) != std::uint32_t{header.incremental()}) {
    return broken(0, "HEADER contradicts itself");
  }
  return header;
}

std::vector<std::byte> trailer_block(const Trailer& trailer, std::uint64_t offset) {
  std::vector<std::byte> block(kBlockAlign);
  const std::span<std::byte> into = std::span(block).subspan(kBlockHeadBytes);
  put(into, 0, trailer.directory_at);
  put(into, 8, trailer.directory_bytes);
  put(into, 16, trailer.file_bytes);
  put(into, 24, trailer.digest);
  put(into, 32, trailer.id.bytes);
  put(into, 48, trailer.blocks);
  seal_block({.type = BlockType::kTrailer,
              .length = kBlockAlign,
              .offset = offset,
              .image = trailer.id.short_form(),
              .payload = kTrailerPayloadBytes},
             {}, block);
  return block;
}

Result<Trailer> parse_trailer(std::span<const std::byte> block, std::uint64_t offset) {
  MIGRATE_CHECK(block.size() >= kBlockAlign);
  auto head = get_head(block.first<kBlockHeadBytes>(), offset, 0);
  if (!head || head->type != BlockType::kTrailer || head->length != kBlockAlign ||
      head->payload != kTrailerPayloadBytes) {
    return broken(offset, "it does not end with a TRAILER: it was cut short, or is being written");
  }
  MIGRATE_TRY(check_block(*head, {}, block));
  const std::span<const std::byte> from = block.subspan(kBlockHeadBytes);
  Trailer trailer;
  trailer.directory_at = get<std::uint64_t>(from, 0);
  trailer.directory_bytes = get<std::uint64_t>(from, 8);
  trailer.file_bytes = get<std::uint64_t>(from, 16);
  trailer.digest = get<std::uint64_t>(from, 24);
  trailer.id.bytes = get<decltype(trailer.id.bytes)>(from, 32);
  trailer.blocks = get<std::uint64_t>(from, 48);
  if (trailer.file_bytes != offset + kBlockAlign || trailer.id.short_form() != head->image ||
      trailer.directory_bytes > kBlockBytesMax || trailer.directory_at > offset ||
      offset - trailer.directory_at != trailer.directory_bytes) {
    return broken(offset, "TRAILER contradicts itself");
  }
  return trailer;
}

}  // namespace migrate::checkpoint
