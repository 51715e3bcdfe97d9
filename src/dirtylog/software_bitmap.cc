#include <algorithm>
#include <atomic>
#include <vector>

#include "migrate/trackers.hpp"

namespace migrate {
namespace {

/// Ones at bits [from, to) of a word; to <= 64.
std::uint64_t mask(std::uint64_t from, std::uint64_t to) {
  const std::uint64_t upper = to == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << to) - 1;
  return upper & (~std::uint64_t{0} << from);
}

class AtomicBitmap final : public SoftwareBitmap {
 public:
  explicit AtomicBitmap(std::span<const Region> regions) {
    for (const Region& region : regions) {
      parts_.push_back({region, std::vector<std::atomic<std::uint64_t>>(
                                    static_cast<std::size_t>((region.range.count + 63) / 64))});
    }
  }

  [[nodiscard]] std::string_view name() const override { return "software"; }
  [[nodiscard]] DirtyCoverage covers() const override {
    return {.kernel = true, .vmm = true, .other_mappings = true, .pinned = true};
  }
  [[nodiscard]] bool rearms_in_collect() const override { return true; }

  void mark(std::uint32_t space, PageRange pages) noexcept override {
    for (Part& part : parts_) {
      if (part.region.id.space != space) continue;
      const PageRange whole = part.region.range;
      const GuestPage first = std::max(pages.first, whole.first);
      const GuestPage end = std::min(pages.end(), whole.end());
      if (first < end) mark_bits(part, first - whole.first, end - whole.first);
    }
  }

  Status start() override {
    for (Part& part : parts_) {
      for (auto& word : part.words) word.store(0);
    }
    return {};
  }

  Status collect(PageBitmap& round_set) override {
    for (Part& part : parts_) {
      PageBitmap::Segment* segment = round_set.find(part.region.id);
      if (segment == nullptr) continue;
      MIGRATE_CHECK(segment->region.range == part.region.range);
      for (std::size_t i = 0; i < part.words.size(); ++i) {
        if (part.words[i].load() != 0) segment->words[i] |= part.words[i].exchange(0);
      }
    }
    return {};
  }

  Status rearm(const PageBitmap&, const RegionId&, PageRange) override { return {}; }

  Status peek(PageBitmap& again) override {
    for (const Part& part : parts_) {
      PageBitmap::Segment* segment = again.find(part.region.id);
      if (segment == nullptr) continue;
      MIGRATE_CHECK(segment->region.range == part.region.range);
      for (std::size_t i = 0; i < part.words.size(); ++i) segment->words[i] |= part.words[i].load();
    }
    return {};
  }

  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return {}; }
  Status stop() override { return {}; }

 private:
  struct Part {
    Region region;
    std::vector<std::atomic<std::uint64_t>> words;
  };

  static void mark_bits(Part& part, std::uint64_t first, std::uint64_t end) noexcept {
    while (first < end) {
      const std::uint64_t word = first / 64;
      const std::uint64_t stop = std::min(end, (word + 1) * 64);
      // Not skipped where the bits are set already: only the locked operation keeps the page's new
      // content from becoming visible after a collector, who clears the bit, has read the page.
      part.words[word].fetch_or(mask(first % 64, stop - word * 64));
      first = stop;
    }
  }

  std::vector<Part> parts_;  ///< Never changes; the words are written by any thread.
};

}  // namespace

void SoftwareBitmap::mark(GuestAddr address, std::uint64_t bytes) noexcept {
  if (bytes == 0) return;
  const std::uint64_t room = ~std::uint64_t{0} - address.value;
  const GuestPage last = GuestAddr{address.value + std::min(bytes - 1, room)}.page();
  mark(0, PageRange{address.page(), last - address.page() + 1});
}

std::shared_ptr<SoftwareBitmap> make_software_bitmap(std::span<const Region> regions) {
  return std::make_shared<AtomicBitmap>(regions);
}

}  // namespace migrate
