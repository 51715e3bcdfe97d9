#include "tests/checkpoint/golden_images.hpp"

#include <array>
#include <cstdint>

#include "tests/checkpoint/image_maker.hpp"

namespace migrate::checkpoint::testing {
namespace {

// XXH3 in Python takes about a millisecond a page: few of them.
constexpr std::array<std::uint64_t, 2> kRegionPages = {10, 30};

std::vector<Section> sections() {
  return {{{"clock", 1, false}, {std::byte{7}}},
          {{"cpu.0", 4, true}, std::vector<std::byte>(300, std::byte{9})}};
}

ImageMaker full(const ImageHeader& header) {
  ImageMaker maker(header, small_description(kRegionPages));
  maker.raw(0, {{1, random_page(1)}, {2, random_page(2)}});
  maker.state(sections(), 200);
  maker.packed(0, {{4, text_page(3)}, {5, text_page(4)}, {9, text_page(5)}});
  maker.same(0, 3, 0, 2);
  maker.optional_block(10);
  maker.packed(0, {{1, text_page(6)}});
  maker.same(1, 29, 0, 5);
  return maker;
}

ImageMaker child(const ImageHeader& header, const ImageMaker& parent, const std::string& path) {
  ImageMaker maker(header, small_description(kRegionPages, path));
  for (std::uint16_t region = 0; region < kRegionPages.size(); ++region) {
    for (std::uint64_t page = 0; page < kRegionPages[region]; ++page) {
      maker.parent_hash(region, page, parent.entry(region, page).hash);
    }
  }
  maker.raw(0, {{2, random_page(8)}});
  maker.zero(0, 9);
  maker.state(sections());
  return maker;
}

std::vector<std::byte> flipped(std::vector<std::byte> bytes, std::size_t at) {
  bytes.at(at) ^= std::byte{1};
  return bytes;
}

}  // namespace

std::vector<GoldenImage> make_golden_images() {
  const ImageHeader first = seeded_header(1);
  const ImageHeader second = seeded_header(2, &first);
  const ImageHeader other = seeded_header(3);
  ImageMaker base = full(first);
  ImageMaker next = child(second, base, "full.img");
  ImageMaker orphan = child(seeded_header(4, &other), base, "full.img");
  ImageMaker lost = child(seeded_header(5, &other), base, "absent.img");
  const auto bytes = base.finish();
  const auto& blocks = base.blocks();
  const auto cut = [&](std::size_t size) {
    return std::vector<std::byte>(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
  };
  const auto at = [&](BlockType type) {
    for (const BlockHead& head : blocks) {
      if (head.type == type) return head;
    }
    return BlockHead{};
  };
  auto newer = bytes;
  newer.at(kBlockHeadBytes) = std::byte{2};
  return {
      {"full.img", bytes, "valid"},
      {"incremental.img", next.finish(), "valid"},
      {"truncated-in-a-page.img", cut(at(BlockType::kRaw).offset + 5000), "integrity"},
      {"truncated-before-trailer.img", cut(bytes.size() - kBlockAlign), "integrity"},
      {"flipped-page.img",
       flipped(bytes, at(BlockType::kRaw).offset + at(BlockType::kRaw).payload_at() + 100),
       "integrity"},
      {"flipped-table.img", flipped(bytes, at(BlockType::kPacked).offset + 70), "integrity"},
      {"flipped-frame.img",
       flipped(bytes, at(BlockType::kPacked).offset + at(BlockType::kPacked).payload_at() + 60),
       "integrity"},
      {"flipped-state.img", flipped(bytes, at(BlockType::kState).offset + 80), "integrity"},
      {"flipped-index.img", flipped(bytes, at(BlockType::kIndex).offset + 4100), "integrity"},
      {"flipped-directory.img", flipped(bytes, at(BlockType::kDirectory).offset + 64), "integrity"},
      {"flipped-padding.img", flipped(bytes, at(BlockType::kState).offset + 4000), "integrity"},
      {"wrong-version.img", newer, "version-mismatch"},
      {"wrong-parent.img", orphan.finish(), "incompatible"},
      {"missing-parent.img", lost.finish(), "not-found"},
  };
}

std::string verdicts_text(const std::vector<GoldenImage>& images) {
  std::string text;
  for (const GoldenImage& image : images) text += image.name + " " + image.verdict + "\n";
  return text;
}

}  // namespace migrate::checkpoint::testing
