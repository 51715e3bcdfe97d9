// What an image restores, as a map of pages.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/image_chain.hpp"
#include "tests/checkpoint/small_images.hpp"

namespace migrate::checkpoint::testing {

inline Result<PageMap> memory_of(const std::shared_ptr<const ImageChain>& chain) {
  MIGRATE_ASSIGN(auto reader, ImageReader::create(chain));
  PageMap pages;
  std::vector<std::byte> window(64 * kPageSize);
  std::vector<FoundPage> found;
  for (std::uint16_t region = 0; region < chain->regions().size(); ++region) {
    const std::uint64_t all = chain->regions()[region].range.count;
    for (std::uint64_t first = 0; first < all; first += 64) {
      const std::uint64_t count = std::min<std::uint64_t>(64, all - first);
      found.resize(count);
      MIGRATE_TRY(chain->find(region, first, found));
      MIGRATE_TRY(reader->read(region, first, count, window.data()));
      for (std::uint64_t i = 0; i < count; ++i) {
        if (found[i].file == nullptr) continue;
        std::copy_n(window.begin() + static_cast<std::ptrdiff_t>(i * kPageSize), kPageSize,
                    pages[{region, first + i}].begin());
      }
    }
  }
  return pages;
}

inline Result<PageMap> memory_of(const std::string& path, const ImageSearch& search = {}) {
  MIGRATE_ASSIGN(auto chain, ImageChain::open(path, search));
  MIGRATE_TRY(chain->state());
  return memory_of(chain);
}

}  // namespace migrate::checkpoint::testing
