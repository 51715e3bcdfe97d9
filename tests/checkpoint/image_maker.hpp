// ImageMaker: small images by hand, from the format's functions alone, for what no writer would
// write: chosen blocks in a chosen order, damage, golden files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/image_format.hpp"
#include "wire/digest.hpp"

namespace migrate::checkpoint::testing {

using PageBytes = std::array<std::byte, kPageSize>;

/// Words that repeat, so that it packs; another content for each seed.
[[nodiscard]] PageBytes text_page(std::uint64_t seed);
/// Does not pack.
[[nodiscard]] PageBytes random_page(std::uint64_t seed);

/// Id, secret and time all come from the seed; a child has its parent's secret.
[[nodiscard]] ImageHeader seeded_header(std::uint64_t seed, const ImageHeader* parent = nullptr);
/// A paused VM with regions of these lengths, far apart, and one property.
[[nodiscard]] ImageDescription small_description(std::span<const std::uint64_t> region_pages,
                                                 std::string parent_path = {});

class ImageMaker {
 public:
  ImageMaker(const ImageHeader& header, const ImageDescription& description);

  using Pages = std::map<std::uint64_t, PageBytes>;
  /// A block of these pages, which become the ones that the index names.
  void raw(std::uint16_t region, const Pages& pages);
  void packed(std::uint16_t region, const Pages& pages);
  /// All state sections in parts of `part_bytes`; when it was never called, finish() adds an empty
  /// one.
  void state(std::span<const Section> sections, std::size_t part_bytes = kStatePartBytesMax);
  /// One part of them only, so that others may stand between.
  void state_part(std::span<const std::byte> payload, std::uint64_t number, bool last);
  /// A block of a type that readers skip.
  void optional_block(std::size_t payload);

  /// What the index says of a page; zero, or as in the parent where there is one, unless set.
  void set(std::uint16_t region, std::uint64_t page, const IndexEntry& entry);
  [[nodiscard]] IndexEntry entry(std::uint16_t region, std::uint64_t page) const;
  /// The page has the content of one that is stored.
  void same(std::uint16_t region, std::uint64_t page, std::uint16_t of_region, std::uint64_t of);
  void zero(std::uint16_t region, std::uint64_t page);
  /// For the digest of a chain: what pages that are as in the parent have.
  void parent_hash(std::uint16_t region, std::uint64_t page, std::uint64_t hash);

  /// Index, directory and trailer; the image.
  [[nodiscard]] std::vector<std::byte> finish();

  [[nodiscard]] const wire::PageDigest& digest() const { return digest_; }
  [[nodiscard]] const ImageHeader& header() const { return header_; }
  /// Those so far.
  [[nodiscard]] const std::vector<BlockHead>& blocks() const { return blocks_; }

 private:
  using Place = std::pair<std::uint16_t, std::uint64_t>;
  std::span<std::byte> add(BlockHead head);
  void seal(std::span<std::byte> block);
  void index(Directory& directory);
  void part(std::uint16_t region, std::uint64_t part, Directory& directory);

  ImageHeader header_;
  ImageDescription description_;
  wire::Hasher hasher_;
  wire::PageDigest digest_;
  std::vector<std::byte> bytes_;
  std::vector<BlockHead> blocks_;
  std::map<Place, IndexEntry> entries_;
  std::map<Place, std::uint64_t> parent_hashes_;
  std::uint64_t state_at_ = 0;
  std::uint64_t state_bytes_ = 0;
};

/// Writes it; the test's folder is gone with it.
void write_file(const std::string& path, std::span<const std::byte> bytes);
[[nodiscard]] std::vector<std::byte> read_file(const std::string& path);

/// A folder of its own for a test, removed afterwards.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  [[nodiscard]] std::string path(const std::string& name) const { return folder_ + "/" + name; }
  [[nodiscard]] const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
};

}  // namespace migrate::checkpoint::testing
