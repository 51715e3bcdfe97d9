// ImageBase: the image that a new one is based on, as the new one's regions see it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "checkpoint/image_chain.hpp"
#include "checkpoint/page_places.hpp"

namespace migrate::checkpoint {

/// Immutable; any thread.
class ImageBase {
 public:
  ImageBase(std::shared_ptr<const ImageChain> chain, std::vector<Region> regions);

  /// Hashes of pages [first, first + into.size()) of region `region` of the new image; kVoid, which
  /// no page has, for those that the base has not.
  [[nodiscard]] Status hashes(std::uint16_t region, std::uint64_t first,
                              std::span<std::uint64_t> into) const;
  /// Whether it has all of the new image's pages, at the same places.
  [[nodiscard]] bool same_layout() const { return !places_; }
  /// Of those of the new image's pages that it has, as the new one counts them.
  [[nodiscard]] Result<std::uint64_t> memory_digest() const;

 private:
  std::shared_ptr<const ImageChain> chain_;
  std::vector<Region> regions_;
  std::optional<PagePlaces> places_;  // Where the layouts differ.
};

}  // namespace migrate::checkpoint
