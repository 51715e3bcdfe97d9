// The image format: what blocks look like and what stands in them. Pure: bytes to values and back,
// no I/O. See docs/image-format.md.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/result.hpp"
#include "wire/hasher.hpp"

namespace migrate::checkpoint {

inline constexpr std::uint32_t kImageVersion = 1;
inline constexpr std::size_t kBlockAlign = 4096;
inline constexpr std::size_t kBlockHeadBytes = 64;
inline constexpr std::uint64_t kBlockBytesMax = 64ull << 20;
inline constexpr std::uint64_t kPagesBlockBytesMax = 8ull << 20;
inline constexpr std::size_t kTableEntryBytes = 16;
inline constexpr std::uint32_t kPagesPerBlockMax = 4032;
inline constexpr std::uint64_t kPagesPerIndex = 4096;
inline constexpr std::size_t kStatePartBytesMax = 4u << 20;
inline constexpr std::size_t kChainMax = 1024;

[[nodiscard]] constexpr std::uint64_t aligned_up(std::uint64_t bytes) {
  return (bytes + (kBlockAlign - 1)) & ~std::uint64_t{kBlockAlign - 1};
}

enum class BlockType : std::uint16_t {
  kHeader = 1,
  kDescription = 2,
  kRaw = 3,
  kPacked = 4,
  kState = 5,
  kIndex = 6,
  kDirectory = 7,
  kTrailer = 8,
};
inline constexpr std::uint16_t kOptionalBlock = 0x8000;
inline constexpr std::uint32_t kLastStatePart = 1;

struct ImageId {
  std::array<std::byte, 16> bytes{};
  friend auto operator<=>(const ImageId&, const ImageId&) = default;
  [[nodiscard]] bool none() const { return *this == ImageId{}; }
  [[nodiscard]] std::uint64_t short_form() const;  ///< What block heads carry.
};
/// 32 lower-case hexadecimal digits.
[[nodiscard]] std::string to_text(const ImageId& id);

/// The secret of an image's hashes, as two halves because that is how the hasher takes it.
struct ImageSecret {
  wire::SessionRandom first, second;
  friend bool operator==(const ImageSecret&, const ImageSecret&) = default;
};

struct BlockHead {
  BlockType type = BlockType::kHeader;
  std::uint16_t region = 0;
  std::uint64_t length = 0;
  std::uint64_t offset = 0;
  std::uint64_t image = 0;  ///< ImageId::short_form().
  std::uint32_t count = 0;
  std::uint32_t flags = 0;
  std::uint64_t first = 0;
  std::uint64_t payload = 0;
  std::uint64_t hash = 0;

  /// Where the payload begins in the block.
  [[nodiscard]] std::uint64_t payload_at() const;
  /// What `length` has to be.
  [[nodiscard]] std::uint64_t needed() const { return aligned_up(payload_at() + payload); }
  /// How many bytes from the block's beginning on the hash covers.
  [[nodiscard]] std::uint64_t hashed_bytes() const;
};
void put_head(const BlockHead& head, std::span<std::byte, kBlockHeadBytes> into);
/// Checks what can be checked without the content; `at` is where the block lies in the file.
/// kIntegrity with the offset for bytes that are no block of image `image` (0: any's);
/// kUnsupported for an unknown type that may not be skipped. A skippable one is returned as it is.
Result<BlockHead> get_head(std::span<const std::byte, kBlockHeadBytes> bytes, std::uint64_t at,
                           std::uint64_t image);

/// Fills in the head's hash and puts the head: `block` is the whole block with table and payload in
/// place. Unkeyed for kHeader and kTrailer whatever `hasher` is.
void seal_block(BlockHead head, const wire::Hasher& hasher, std::span<std::byte> block);
/// kIntegrity, naming the block and its offset, unless the hash is right. `block` has at least the
/// bytes that the hash covers.
Status check_block(const BlockHead& head, const wire::Hasher& hasher,
                   std::span<const std::byte> block);

struct ImageHeader {
  ImageId id;
  ImageId parent;  ///< None for a full image.
  ImageSecret secret;
  std::uint64_t created_ns = 0;  ///< Since 1970.
  [[nodiscard]] bool incremental() const { return !parent.none(); }
  [[nodiscard]] wire::Hasher hasher() const { return {secret.first, secret.second}; }
};
/// A block of 4096 bytes, sealed.
[[nodiscard]] std::vector<std::byte> header_block(const ImageHeader& header);
/// kVersionMismatch with the versions, kIntegrity; kInvalidArgument for what is no image at all.
Result<ImageHeader> parse_header(std::span<const std::byte> block);

struct ImageDescription {
  GuestDescription guest;
  RunState run_state = RunState::kRunning;  ///< Before it was paused for this.
  std::string host;
  std::string parent_path;
};
Result<std::vector<std::byte>> description_payload(const ImageDescription& description);
/// kIntegrity with the byte.
Result<ImageDescription> parse_description(std::span<const std::byte> payload);

/// A section with its content, as in the state.
using Section = GuestDescription::Property;
[[nodiscard]] std::vector<std::byte> state_payload(std::span<const Section> sections);
Result<std::vector<Section>> parse_state(std::span<const std::byte> payload);

/// Where a page's content is.
struct PageLocation {
  std::uint64_t value = 0;
  friend auto operator<=>(const PageLocation&, const PageLocation&) = default;

  static constexpr PageLocation zero() { return {0}; }
  static constexpr PageLocation parent() { return {1}; }
  static constexpr PageLocation raw(std::uint64_t offset) { return {offset | 0xfff}; }
  static constexpr PageLocation packed(std::uint64_t block, std::uint32_t slot) {
    return {block | slot};
  }
  [[nodiscard]] bool is_zero() const { return value == 0; }
  [[nodiscard]] bool is_parent() const { return value == 1; }
  [[nodiscard]] bool is_stored() const { return value >= kBlockAlign; }
  [[nodiscard]] bool is_raw() const { return is_stored() && (value & 0xfff) == 0xfff; }
  /// Of the page itself (raw) or of its block (packed).
  [[nodiscard]] std::uint64_t offset() const { return value & ~std::uint64_t{0xfff}; }
  [[nodiscard]] std::uint32_t slot() const { return static_cast<std::uint32_t>(value & 0xfff); }
  /// One of the forms that the format has.
  [[nodiscard]] bool valid() const {
    return value < 2 || (is_stored() && (is_raw() || slot() < kPagesPerBlockMax));
  }
};

/// As it lies in an INDEX block.
struct IndexEntry {
  PageLocation location;
  std::uint64_t hash = 0;
  friend bool operator==(const IndexEntry&, const IndexEntry&) = default;
};
static_assert(sizeof(IndexEntry) == 16);

/// As it lies in a RAW or PACKED block's table.
struct TableEntry {
  std::uint64_t page = 0;  ///< From the region's first.
  std::uint64_t hash = 0;
};
static_assert(sizeof(TableEntry) == kTableEntryBytes);

struct Directory {
  static constexpr std::uint64_t kAllZero = 0;
  static constexpr std::uint64_t kAllParent = 1;
  struct Part {
    std::uint64_t where = kAllZero;
    std::uint64_t hash = 0;
  };
  struct Counts {
    std::uint64_t stored = 0, zero = 0, duplicate = 0, parent = 0;
  };
  std::uint64_t digest = 0;
  Counts pages;
  std::uint64_t state_at = 0;
  std::uint64_t state_bytes = 0;
  std::vector<std::vector<Part>> regions;  ///< By region, by 4096 pages.
};
[[nodiscard]] std::vector<std::byte> directory_payload(const Directory& directory);
Result<Directory> parse_directory(std::span<const std::byte> payload,
                                  std::span<const Region> regions);

struct Trailer {
  std::uint64_t directory_at = 0;
  std::uint64_t directory_bytes = 0;
  std::uint64_t file_bytes = 0;
  std::uint64_t digest = 0;
  ImageId id;
  std::uint64_t blocks = 0;
};
/// A block of 4096 bytes at `offset`, sealed.
[[nodiscard]] std::vector<std::byte> trailer_block(const Trailer& trailer, std::uint64_t offset);
/// `block` is a file's last 4096 bytes, which begin at `offset`. kIntegrity.
Result<Trailer> parse_trailer(std::span<const std::byte> block, std::uint64_t offset);

}  // namespace migrate::checkpoint
