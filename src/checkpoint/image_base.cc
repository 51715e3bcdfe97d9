#include "checkpoint/image_base.hpp"

#include <algorithm>
#include <utility>

namespace migrate::checkpoint {

ImageBase::ImageBase(std::shared_ptr<const ImageChain> chain, std::vector<Region> regions)
    : chain_(std::move(chain)), regions_(std::move(regions)) {
  if (!same_places(regions_, chain_->regions())) places_.emplace(chain_->regions());
}

Status ImageBase::hashes(std::uint16_t region, std::uint64_t first,
                         std::span<std::uint64_t> into) const {
  if (!places_) return chain_->hashes(region, first, into);
  return for_each_place(*places_, regions_[region], first, into.size(),
                        [&](std::uint64_t skip, const PagePlaces::Run& run) -> Status {
                          const auto part = into.subspan(skip, run.count);
                          if (run.region) return chain_->hashes(*run.region, run.first, part);
                          std::ranges::fill(part, wire::PageDigest::kVoid);
                          return {};
                        });
}

Result<std::uint64_t> ImageBase::memory_digest() const {
  if (!places_) return chain_->top().directory().digest;
  std::uint64_t digest = 0;
  std::vector<std::uint64_t> part;
  for (std::uint16_t region = 0; region < regions_.size(); ++region) {
    const std::uint64_t pages = regions_[region].range.count;
    for (std::uint64_t first = 0; first < pages; first += part.size()) {
      part.resize(std::min(kPagesPerIndex, pages - first));
      MIGRATE_TRY(hashes(region, first, part));
      for (std::size_t i = 0; i < part.size(); ++i) {
        digest += chain_->digest().mix({region}, first + i, part[i]);
      }
    }
  }
  return digest;
}

}  // namespace migrate::checkpoint
