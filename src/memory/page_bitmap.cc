#include <algorithm>
#include <bit>

#include "memory/word_ops.hpp"
#include "migrate/memory.hpp"

namespace migrate {
namespace {

constexpr std::uint64_t kAllOnes = ~std::uint64_t{0};

std::size_t words_for(std::uint64_t pages) { return static_cast<std::size_t>((pages + 63) / 64); }

/// Ones at bits [from, to) of one word; to <= 64.
std::uint64_t mask(unsigned from, unsigned to) {
  const std::uint64_t upper = to == 64 ? kAllOnes : (std::uint64_t{1} << to) - 1;
  return upper & (kAllOnes << from);
}

/// Calls f(word, mask) for the bits [first, first + count) of `words`.
template <typename F>
void for_each_word(std::uint64_t first, std::uint64_t count, F f) {
  const std::uint64_t end = first + count;
  while (first < end) {
    const std::uint64_t word = first / 64;
    const std::uint64_t stop = std::min(end, (word + 1) * 64);
    f(static_cast<std::size_t>(word),
      mask(static_cast<unsigned>(first % 64), static_cast<unsigned>(stop - word * 64)));
    first = stop;
  }
}

PageBitmap::Segment make_segment(const Region& region, bool value) {
  PageBitmap::Segment segment{region, std::vector<std::uint64_t>(words_for(region.range.count))};
  if (value) {
    for_each_word(0, region.range.count,
                  [&](std::size_t word, std::uint64_t bits) { segment.words[word] |= bits; });
  }
  return segment;
}

using Combine = void (*)(std::uint64_t*, const std::uint64_t*, std::size_t);

void combine(std::span<PageBitmap::Segment> mine, const PageBitmap& other, bool empty_if_missing,
             Combine op) {
  for (auto& segment : mine) {
    const auto* theirs = other.find(segment.region.id);
    if (theirs == nullptr) {
      if (empty_if_missing) std::fill(segment.words.begin(), segment.words.end(), 0);
      continue;
    }
    MIGRATE_CHECK(theirs->words.size() == segment.words.size());
    op(segment.words.data(), theirs->words.data(), segment.words.size());
  }
}

}  // namespace

std::string to_text(const RegionId& region) {
  return std::to_string(region.space) + ":" + std::to_string(region.id) + "." +
         std::to_string(region.generation);
}

PageBitmap::PageBitmap(std::span<const Region> regions) { reshape(regions, false); }

void PageBitmap::reshape(std::span<const Region> regions, bool value_of_new) {
  std::vector<Segment> reshaped;
  reshaped.reserve(regions.size());
  for (const Region& region : regions) {
    Segment* kept = find(region.id);
    if (kept != nullptr && kept->region.range == region.range) {
      reshaped.push_back(std::move(*kept));
    } else {
      reshaped.push_back(make_segment(region, value_of_new));
    }
  }
  segments_ = std::move(reshaped);
}

PageBitmap::Segment* PageBitmap::find(const RegionId& region) {
  return const_cast<Segment*>(std::as_const(*this).find(region));
}

const PageBitmap::Segment* PageBitmap::find(const RegionId& region) const {
  for (const Segment& segment : segments_) {
    if (segment.region.id == region) return &segment;
  }
  return nullptr;
}

std::vector<Region> PageBitmap::regions() const {
  std::vector<Region> regions;
  for (const Segment& segment : segments_) regions.push_back(segment.region);
  return regions;
}

void PageBitmap::hand_over(PageBitmap& to) {
  to.merge(*this);
  for (Segment& segment : segments_) {
    if (to.find(segment.region.id) != nullptr) {
      std::fill(segment.words.begin(), segment.words.end(), 0);
    }
  }
}

void PageBitmap::set(const RegionId& region, GuestPage page) { set(region, PageRange{page, 1}); }

void PageBitmap::set(const RegionId& region, PageRange range) {
  Segment* segment = find(region);
  MIGRATE_CHECK(segment != nullptr && segment->region.range.contains(range));
  for_each_word(range.first - segment->region.range.first, range.count,
                [&](std::size_t word, std::uint64_t bits) { segment->words[word] |= bits; });
}

void PageBitmap::clear(const RegionId& region, PageRange range) {
  Segment* segment = find(region);
  MIGRATE_CHECK(segment != nullptr && segment->region.range.contains(range));
  for_each_word(range.first - segment->region.range.first, range.count,
                [&](std::size_t word, std::uint64_t bits) { segment->words[word] &= ~bits; });
}

bool PageBitmap::test(const RegionId& region, GuestPage page) const {
  const Segment* segment = find(region);
  MIGRATE_CHECK(segment != nullptr && segment->region.range.contains(page));
  const std::uint64_t bit = page - segment->region.range.first;
  return ((segment->words[bit / 64] >> (bit % 64)) & 1) != 0;
}

void PageBitmap::set_all() {
  for (Segment& segment : segments_) {
    for_each_word(0, segment.region.range.count,
                  [&](std::size_t word, std::uint64_t bits) { segment.words[word] |= bits; });
  }
}

void PageBitmap::clear_all() {
  for (Segment& segment : segments_) std::fill(segment.words.begin(), segment.words.end(), 0);
}

std::uint64_t PageBitmap::count() const {
  std::uint64_t pages = 0;
  for (const Segment& segment : segments_) {
    pages += word_ops().count(segment.words.data(), segment.words.size());
  }
  return pages;
}

bool PageBitmap::empty() const {
  return std::all_of(segments_.begin(), segments_.end(), [](const Segment& segment) {
    const std::size_t words = segment.words.size();
    return word_ops().skip(segment.words.data(), 0, words, 0) == words;
  });
}

std::uint64_t PageBitmap::capacity() const {
  std::uint64_t pages = 0;
  for (const Segment& segment : segments_) pages += segment.region.range.count;
  return pages;
}

void PageBitmap::merge(const PageBitmap& other) {
  combine(segments_, other, false, word_ops().merge);
}

void PageBitmap::subtract(const PageBitmap& other) {
  combine(segments_, other, false, word_ops().subtract);
}

void PageBitmap::intersect(const PageBitmap& other) {
  combine(segments_, other, true, word_ops().intersect);
}

namespace {

/// The first bit from `bit` on that is set (`value` 0) or clear (`value` all ones), at most `end`.
/// Neighbours are looked at here and long stretches by word_ops(): a call to it costs as much as
/// some ten words.
std::uint64_t skip_bits(const std::uint64_t* words, std::uint64_t bit, std::uint64_t end,
                        std::uint64_t value) {
  if (bit >= end) return end;
  constexpr std::size_t kNear = 2;
  const std::size_t stop = words_for(end);
  std::size_t word = static_cast<std::size_t>(bit / 64);
  std::uint64_t different = (words[word] ^ value) & (kAllOnes << (bit % 64));
  for (std::size_t near = 0; different == 0; ++near) {
    ++word;
    if (near == kNear) word = word_ops().skip(words, word, stop, value);
    if (word >= stop) return end;
    different = words[word] ^ value;
  }
  return std::min(end, word * 64 + static_cast<unsigned>(std::countr_zero(different)));
}

}  // namespace

PageRange next_run(const PageBitmap::Segment& segment, GuestPage from, GuestPage limit) {
  const GuestPage first = segment.region.range.first;
  const std::uint64_t end = std::min(limit, segment.region.range.end()) - first;
  const std::uint64_t* words = segment.words.data();
  const std::uint64_t bit = skip_bits(words, from - first, end, 0);
  if (bit >= end) return {limit, 0};
  return {first + bit, skip_bits(words, bit, end, kAllOnes) - bit};
}

void PageBitmap::for_each_run(const std::function<void(const RegionId&, PageRange)>& f) const {
  for (const Segment& segment : segments_) {
    const GuestPage end = segment.region.range.end();
    for (PageRange run = next_run(segment, segment.region.range.first, end); !run.empty();
         run = next_run(segment, run.end(), end)) {
      f(segment.region.id, run);
    }
  }
}

}  // namespace migrate
