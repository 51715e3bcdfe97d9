#include "tests/checkpoint/small_images.hpp"

#include <array>
#include <cstdint>

namespace migrate::checkpoint::testing {
namespace {

// Two parts of the index and a bit, of which the second is all zeros in the first image.
constexpr std::array<std::uint64_t, 2> kRegionPages = {12, 2 * kPagesPerIndex + 3};

std::vector<Section> sections(std::uint8_t fill) {
  return {{{"clock", 1, false}, {std::byte{fill}}},
          {{"cpu.0", 4, true}, std::vector<std::byte>(5000, std::byte{fill})}};
}

class Made {
 public:
  Made(const ImageHeader& header, const std::string& parent_path)
      : maker(header, small_description(kRegionPages, parent_path)) {}
  Made(const ImageHeader& header, const std::string& parent_path, const Made& parent)
      : Made(header, parent_path) {
    content = parent.content;
    for (const auto& [place, bytes] : content) {
      maker.parent_hash(place.first, place.second, maker.digest().hash(bytes));
    }
  }

  void raw(std::uint16_t region, const ImageMaker::Pages& pages) {
    maker.raw(region, pages);
    for (const auto& [page, bytes] : pages) content[{region, page}] = bytes;
  }
  void packed(std::uint16_t region, const ImageMaker::Pages& pages) {
    maker.packed(region, pages);
    for (const auto& [page, bytes] : pages) content[{region, page}] = bytes;
  }
  void same(std::uint16_t region, std::uint64_t page, std::uint16_t of_region, std::uint64_t of) {
    maker.same(region, page, of_region, of);
    content[{region, page}] = content.at({of_region, of});
  }
  void zero(std::uint16_t region, std::uint64_t page) {
    maker.zero(region, page);
    content.erase({region, page});
  }

  SmallImage finish() {
    SmallImage image;
    image.header = maker.header();
    image.bytes = maker.finish();
    image.blocks = maker.blocks();
    image.pages = content;
    return image;
  }

  ImageMaker maker;
  PageMap content;
};

}  // namespace

SmallImages small_images() {
  const ImageHeader first = seeded_header(1);
  const ImageHeader second = seeded_header(2, &first);
  const ImageHeader third = seeded_header(3, &second);

  Made full(first, "");
  full.raw(0, {{1, random_page(1)}, {2, random_page(2)}, {5, random_page(3)}});
  full.packed(0, {{7, text_page(4)}, {8, text_page(5)}, {11, text_page(6)}});
  full.same(0, 3, 0, 2);
  full.same(1, 0, 0, 8);
  full.maker.optional_block(100);
  full.raw(1, {{2 * kPagesPerIndex + 2, random_page(7)}});
  full.packed(1, {{1, text_page(8)}, {4000, text_page(9)}});
  // Stored twice: what came later holds.
  full.raw(0, {{5, random_page(10)}});
  full.maker.state(sections(1), 3000);

  Made next(second, "full.img", full);
  next.maker.state(sections(2));
  next.packed(0, {{7, text_page(11)}});
  next.raw(1, {{kPagesPerIndex, random_page(12)}, {kPagesPerIndex + 1, random_page(13)}});
  next.zero(0, 1);
  next.same(0, 0, 1, kPagesPerIndex);

  Made last(third, "second.img", next);
  last.maker.state(sections(3));
  last.raw(1, {{kPagesPerIndex, random_page(14)}});

  SmallImages images;
  images.full = full.finish();
  images.second = next.finish();
  images.third = last.finish();
  return images;
}

}  // namespace migrate::checkpoint::testing
