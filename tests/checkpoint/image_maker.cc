#include "tests/checkpoint/image_maker.hpp"

#include <zstd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <set>

namespace migrate::checkpoint::testing {
namespace {

constexpr std::uint64_t kAllZero = Directory::kAllZero;

template <typename Bytes>
void fill(Bytes& bytes, std::mt19937_64& random) {
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
}

std::vector<std::byte> joined(const ImageMaker::Pages& pages) {
  std::vector<std::byte> content;
  for (const auto& [page, bytes] : pages) content.insert(content.end(), bytes.begin(), bytes.end());
  return content;
}

}  // namespace

PageBytes random_page(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  PageBytes page;
  fill(page, random);
  return page;
}

PageBytes text_page(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  PageBytes page;
  for (std::size_t at = 0; at < page.size(); at += 16) {
    const std::string word = "page " + std::to_string(random() % 7) + " of the book ";
    for (std::size_t i = 0; i < 16; ++i) page[at + i] = static_cast<std::byte>(word[i % 15]);
  }
  return page;
}

ImageHeader seeded_header(std::uint64_t seed, const ImageHeader* parent) {
  std::mt19937_64 random(seed);
  ImageHeader header;
  fill(header.id.bytes, random);
  fill(header.secret.first.bytes, random);
  fill(header.secret.second.bytes, random);
  header.created_ns = 1'700'000'000'000'000'000 + seed;
  if (parent != nullptr) {
    header.parent = parent->id;
    header.secret = parent->secret;
  }
  return header;
}

ImageDescription small_description(std::span<const std::uint64_t> region_pages,
                                   std::string parent_path) {
  ImageDescription description;
  description.guest.kind = GuestKind::kVm;
  description.guest.name = "small";
  description.guest.vcpus = 2;
  std::uint32_t id = 0;
  for (const std::uint64_t pages : region_pages) {
    description.guest.regions.push_back(
        {{0, id, 0}, {{std::uint64_t{id} << 24}, pages}, Backing::kMemfd});
    ++id;
  }
  description.guest.properties = {{{"test.property", 1, true}, {std::byte{1}, std::byte{2}}}};
  description.run_state = RunState::kPaused;
  description.host = "a host";
  description.parent_path = std::move(parent_path);
  return description;
}

ImageMaker::ImageMaker(const ImageHeader& header, const ImageDescription& description)
    : header_(header), description_(description), hasher_(header.hasher()), digest_(hasher_) {
  bytes_ = header_block(header);
  blocks_.push_back({.type = BlockType::kHeader, .length = kBlockAlign});
  const auto payload = *description_payload(description);
  const auto block = add({.type = BlockType::kDescription, .payload = payload.size()});
  std::copy(payload.begin(), payload.end(), block.begin() + kBlockHeadBytes);
  seal(block);
}

std::span<std::byte> ImageMaker::add(BlockHead head) {
  head.offset = bytes_.size();
  head.image = header_.id.short_form();
  head.length = head.needed();
  bytes_.resize(bytes_.size() + head.length);
  blocks_.push_back(head);
  return std::span(bytes_).subspan(head.offset);
}

void ImageMaker::seal(std::span<std::byte> block) { seal_block(blocks_.back(), hasher_, block); }

void ImageMaker::raw(std::uint16_t region, const Pages& pages) {
  const auto block = add({.type = BlockType::kRaw,
                          .region = region,
                          .count = static_cast<std::uint32_t>(pages.size()),
                          .payload = pages.size() * kPageSize});
  const std::uint64_t payload_at = blocks_.back().payload_at();
  std::size_t i = 0;
  for (const auto& [page, content] : pages) {
    const TableEntry entry{page, digest_.hash(content)};
    const std::uint64_t at = payload_at + i * kPageSize;
    std::memcpy(block.data() + kBlockHeadBytes + i * sizeof(entry), &entry, sizeof(entry));
    std::copy(content.begin(), content.end(), block.begin() + static_cast<std::ptrdiff_t>(at));
    set(region, page, {PageLocation::raw(blocks_.back().offset + at), entry.hash});
    ++i;
  }
  seal(block);
}

void ImageMaker::packed(std::uint16_t region, const Pages& pages) {
  const auto content = joined(pages);
  std::vector<std::byte> frame(ZSTD_compressBound(content.size()));
  frame.resize(ZSTD_compress(frame.data(), frame.size(), content.data(), content.size(), 1));
  const auto block = add({.type = BlockType::kPacked,
                          .region = region,
                          .count = static_cast<std::uint32_t>(pages.size()),
                          .payload = frame.size()});
  std::uint32_t slot = 0;
  for (const auto& [page, bytes] : pages) {
    const TableEntry entry{page, digest_.hash(bytes)};
    std::memcpy(block.data() + kBlockHeadBytes + slot * sizeof(entry), &entry, sizeof(entry));
    set(region, page, {PageLocation::packed(blocks_.back().offset, slot), entry.hash});
    ++slot;
  }
  std::copy(frame.begin(), frame.end(),
            block.begin() + static_cast<std::ptrdiff_t>(blocks_.back().payload_at()));
  seal(block);
}

void ImageMaker::state(std::span<const Section> sections, std::size_t part_bytes) {
  const auto payload = state_payload(sections);
  std::uint64_t number = 0;
  for (std::size_t at = 0; at < payload.size(); at += part_bytes) {
    const std::size_t size = std::min(part_bytes, payload.size() - at);
    state_part(std::span(payload).subspan(at, size), number++, at + size == payload.size());
  }
}

void ImageMaker::state_part(std::span<const std::byte> payload, std::uint64_t number, bool last) {
  const auto block = add({.type = BlockType::kState,
                          .flags = last ? kLastStatePart : 0,
                          .first = number,
                          .payload = payload.size()});
  if (number == 0) state_at_ = blocks_.back().offset;
  state_bytes_ += payload.size();
  std::copy(payload.begin(), payload.end(), block.begin() + kBlockHeadBytes);
  seal(block);
}

void ImageMaker::optional_block(std::size_t payload) {
  seal(add({.type = static_cast<BlockType>(kOptionalBlock | 77), .payload = payload}));
}

void ImageMaker::set(std::uint16_t region, std::uint64_t page, const IndexEntry& entry) {
  entries_[{region, page}] = entry;
}

IndexEntry ImageMaker::entry(std::uint16_t region, std::uint64_t page) const {
  const auto at = entries_.find({region, page});
  if (at != entries_.end()) return at->second;
  if (!header_.incremental()) return {PageLocation::zero(), digest_.zero_hash()};
  const auto before = parent_hashes_.find({region, page});
  return {PageLocation::parent(),
          before == parent_hashes_.end() ? digest_.zero_hash() : before->second};
}

void ImageMaker::same(std::uint16_t region, std::uint64_t page, std::uint16_t of_region,
                      std::uint64_t of) {
  set(region, page, entry(of_region, of));
}

void ImageMaker::zero(std::uint16_t region, std::uint64_t page) {
  set(region, page, {PageLocation::zero(), digest_.zero_hash()});
}

void ImageMaker::parent_hash(std::uint16_t region, std::uint64_t page, std::uint64_t hash) {
  parent_hashes_[{region, page}] = hash;
}

void ImageMaker::part(std::uint16_t region, std::uint64_t part, Directory& directory) {
  const std::uint64_t first = part * kPagesPerIndex;
  const std::uint64_t pages =
      std::min(kPagesPerIndex, description_.guest.regions[region].range.count - first);
  std::vector<IndexEntry> entries;
  bool all_zero = true;
  bool all_parent = true;
  for (std::uint64_t page = first; page < first + pages; ++page) {
    entries.push_back(entry(region, page));
    const PageLocation location = entries.back().location;
    all_zero = all_zero && location.is_zero();
    all_parent = all_parent && location.is_parent();
    if (location.is_zero()) ++directory.pages.zero;
    if (location.is_parent()) ++directory.pages.parent;
    directory.digest += digest_.mix({region}, page, entries.back().hash);
  }
  if (all_zero || all_parent) {
    directory.regions.back().push_back({all_zero ? kAllZero : Directory::kAllParent, 0});
    return;
  }
  const auto block = add({.type = BlockType::kIndex,
                          .region = region,
                          .count = static_cast<std::uint32_t>(pages),
                          .first = first,
                          .payload = pages * sizeof(IndexEntry)});
  std::memcpy(block.data() + kBlockAlign, entries.data(), pages * sizeof(IndexEntry));
  seal(block);
  const auto head = *get_head(block.first<kBlockHeadBytes>(), blocks_.back().offset, 0);
  directory.regions.back().push_back({head.offset, head.hash});
}

void ImageMaker::index(Directory& directory) {
  const auto& regions = description_.guest.regions;
  for (std::uint16_t region = 0; region < regions.size(); ++region) {
    directory.regions.emplace_back();
    for (std::uint64_t first = 0; first < regions[region].range.count; first += kPagesPerIndex) {
      part(region, first / kPagesPerIndex, directory);
    }
  }
  std::set<PageLocation> stored;
  for (const auto& [place, entry] : entries_) {
    if (!entry.location.is_stored()) continue;
    ++(stored.insert(entry.location).second ? directory.pages.stored : directory.pages.duplicate);
  }
}

std::vector<std::byte> ImageMaker::finish() {
  if (state_at_ == 0) state({});
  Directory directory;
  directory.state_at = state_at_;
  directory.state_bytes = state_bytes_;
  index(directory);
  const auto payload = directory_payload(directory);
  const auto block = add({.type = BlockType::kDirectory, .payload = payload.size()});
  std::copy(payload.begin(), payload.end(), block.begin() + kBlockHeadBytes);
  seal(block);
  const std::uint64_t at = bytes_.size();
  const auto trailer = trailer_block({.directory_at = blocks_.back().offset,
                                      .directory_bytes = blocks_.back().length,
                                      .file_bytes = at + kBlockAlign,
                                      .digest = directory.digest,
                                      .id = header_.id,
                                      .blocks = blocks_.size() + 1},
                                     at);
  bytes_.insert(bytes_.end(), trailer.begin(), trailer.end());
  return bytes_;
}

void write_file(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::byte> bytes;
  std::transform(std::istreambuf_iterator<char>(file), {}, std::back_inserter(bytes),
                 [](char c) { return static_cast<std::byte>(c); });
  return bytes;
}

ScratchFolder::ScratchFolder() {
  std::string pattern = std::filesystem::temp_directory_path() / "migrate-image-XXXXXX";
  folder_ = ::mkdtemp(pattern.data()) == nullptr ? "" : pattern;
}
ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
}

}  // namespace migrate::checkpoint::testing
