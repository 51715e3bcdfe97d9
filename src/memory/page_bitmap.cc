#include <algorithm>
#include <bit>

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

template <typename Op>
void combine(std::span<PageBitmap::Segment> mine, const PageBitmap& other, bool empty_if_missing,
             Op op) {
  for (auto& segment : mine) {
    const auto* theirs = other.find(segment.region.id);
    if (theirs == nullptr) {
      if (empty_if_missing) std::fill(segment.words.begin(), segment.words.end(), 0);
      continue;
    }
    MIGRATE_CHECK(theirs->words.size() == segment.words.size());
    for (std::size_t i = 0; i < segment.words.size(); ++i) {
      segment.words[i] = op(segment.words[i], theirs->words[i]);
    }
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
    for (const std::uint64_t word : segment.words) {
      pages += static_cast<unsigned>(std::popcount(word));
    }
  }
  return pages;
}

bool PageBitmap::empty() const {
  return std::all_of(segments_.begin(), segments_.end(), [](const Segment& segment) {
    return std::all_of(segment.words.begin(), segment.words.end(),
                       [](std::uint64_t word) { return word == 0; });
  });
}

std::uint64_t PageBitmap::capacity() const {
  std::uint64_t pages = 0;
  for (const Segment& segment : segments_) pages += segment.region.range.count;
  return pages;
}

void PageBitmap::merge(const PageBitmap& other) {
  combine(segments_, other, false, [](std::uint64_t a, std::uint64_t b) { return a | b; });
}

void PageBitmap::subtract(const PageBitmap& other) {
  combine(segments_, other, false, [](std::uint64_t a, std::uint64_t b) { return a & ~b; });
}

void PageBitmap::intersect(const PageBitmap& other) {
  combine(segments_, other, true, [](std::uint64_t a, std::uint64_t b) { return a & b; });
}

PageRange next_run(const PageBitmap::Segment& segment, GuestPage from, GuestPage limit) {
  const GuestPage first = segment.region.range.first;
  const std::uint64_t end = std::min(limit, segment.region.range.end()) - first;
  std::uint64_t bit = from - first;
  // Skip clear bits a word at a time, then count set bits the same way.
  while (bit < end) {
    const std::uint64_t word = segment.words[bit / 64] >> (bit % 64);
    if (word != 0) {
      bit += static_cast<unsigned>(std::countr_zero(word));
      break;
    }
    bit = (bit / 64 + 1) * 64;
  }
  if (bit >= end) return {limit, 0};
  std::uint64_t stop = bit;
  while (stop < end) {
    const std::uint64_t clear = ~(segment.words[stop / 64] >> (stop % 64));
    const std::uint64_t ones = static_cast<unsigned>(std::countr_zero(clear));
    const std::uint64_t room = 64 - stop % 64;
    stop += std::min(ones, room);
    if (ones < room) break;
  }
  return {first + bit, std::min(stop, end) - bit};
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
