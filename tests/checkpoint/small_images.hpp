// A small image, its successor and the successor's, with everything in them that the format has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "checkpoint/image_format.hpp"
#include "tests/checkpoint/image_maker.hpp"

namespace migrate::checkpoint::testing {

/// By region and page.
using PageMap = std::map<std::pair<std::uint16_t, std::uint64_t>, PageBytes>;

struct SmallImage {
  ImageHeader header;
  std::vector<std::byte> bytes;
  std::vector<BlockHead> blocks;
  PageMap pages;  ///< What it is to restore, but for pages of zeros.
};

struct SmallImages {
  SmallImage full, second, third;  ///< Parents: "", "full.img", "second.img".
};
[[nodiscard]] SmallImages small_images();

}  // namespace migrate::checkpoint::testing
