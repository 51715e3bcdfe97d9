#include "transport/page_originals.hpp"

#include <algorithm>
#include <bit>

namespace migrate {
namespace {

constexpr std::uint64_t kSlotsMax = (8 << 20) / sizeof(std::uint64_t);
constexpr std::uint64_t kPageBits = 48;
constexpr std::uint64_t kPageMask = (std::uint64_t{1} << kPageBits) - 1;

}  // namespace

PageOriginals::PageOriginals(std::uint64_t pages)
    : slots_(static_cast<std::size_t>(
          pages == 0 ? 0 : std::min(std::bit_ceil(std::min(pages, kSlotsMax)), kSlotsMax))) {}

void PageOriginals::note(std::uint64_t hash, const wire::PageReference& page) {
  if (slots_.empty() || page.region.number >> 16 != 0 || page.page >= kPageMask) return;
  slots_[hash & (slots_.size() - 1)].store(
      std::uint64_t{page.region.number} << kPageBits | (page.page + 1), std::memory_order_relaxed);
}

std::optional<wire::PageReference> PageOriginals::find(std::uint64_t hash) const {
  if (slots_.empty()) return std::nullopt;
  const std::uint64_t slot = slots_[hash & (slots_.size() - 1)].load(std::memory_order_relaxed);
  if (slot == 0) return std::nullopt;
  return wire::PageReference{wire::RegionHandle{static_cast<std::uint32_t>(slot >> kPageBits)},
                             (slot & kPageMask) - 1};
}

}  // namespace migrate
