#include "postcopy/push_order.hpp"

#include <algorithm>
#include <bit>

namespace migrate::postcopy {
namespace {

// From the third fault in a row that ascends or descends on, it is a direction and no accident.
constexpr int kTrendSure = 2;
// How far ahead of a sure one: doubled with each fault, up to 32 MiB.
constexpr int kDoublingsMax = 3;

/// Bits of one segment, or of two that must both be set.
class Bits {
 public:
  Bits(const PageBitmap::Segment& one, const PageBitmap::Segment* other)
      : one_(one.words),
        other_(other != nullptr ? std::span(other->words) : std::span(one.words)) {}

  /// The first page in [from, limit) whose bit is `value`, else limit.
  [[nodiscard]] std::uint64_t find(bool value, std::uint64_t from, std::uint64_t limit) const {
    if (from >= limit) return limit;
    std::uint64_t word = from / 64;
    std::uint64_t bits = of(word, value) & (~std::uint64_t{0} << (from % 64));
    while (bits == 0) {
      if (++word * 64 >= limit) return limit;
      bits = of(word, value);
    }
    return std::min(limit, word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits)));
  }

  /// One past the last page in [limit, from) whose bit is `value`, else limit.
  [[nodiscard]] std::uint64_t find_down(bool value, std::uint64_t from, std::uint64_t limit) const {
    if (from <= limit) return limit;
    std::uint64_t word = (from - 1) / 64;
    std::uint64_t bits = of(word, value) & (~std::uint64_t{0} >> (63 - (from - 1) % 64));
    while (bits == 0) {
      if (word * 64 <= limit) return limit;
      bits = of(--word, value);
    }
    return std::max(limit, word * 64 + 64 - static_cast<std::uint64_t>(std::countl_zero(bits)));
  }

 private:
  [[nodiscard]] std::uint64_t of(std::uint64_t word, bool value) const {
    const std::uint64_t bits = one_[word] & other_[word];
    return value ? bits : ~bits;
  }
  std::span<const std::uint64_t> one_;
  std::span<const std::uint64_t> other_;
};

std::uint64_t down_to(std::uint64_t page, std::uint64_t granule) { return page & ~(granule - 1); }
std::uint64_t up_to(std::uint64_t page, std::uint64_t granule) {
  return down_to(page + granule - 1, granule);
}

std::vector<Region> regions_of(std::span<const PushOrder::Part> parts) {
  std::vector<Region> regions;
  for (const PushOrder::Part& part : parts) regions.push_back(part.region);
  return regions;
}

}  // namespace

PushOrder::PushOrder(std::span<const Part> parts, PushPattern pattern)
    : pattern_(pattern), unsent_(regions_of(parts)), first_(unsent_), recent_(unsent_) {
  for (const Part& part : parts) granules_.push_back(std::max<std::uint32_t>(part.granule, 1));
  pivots_.reserve(kPivotsMax + 1);
}

std::uint64_t PushOrder::pages_of(std::size_t region) const {
  return unsent_.segments()[region].region.range.count;
}

PageBitmap PushOrder::laid_out(const PageBitmap& set) const {
  PageBitmap same(unsent_.regions());
  same.merge(set);
  return same;
}

void PushOrder::set_missing(const PageBitmap& missing) {
  unsent_ = laid_out(missing);
  left_ = 0;
  for (std::size_t i = 0; i < granules_.size(); ++i) {
    PageBitmap::Segment& segment = unsent_.segments()[i];
    const std::uint64_t pages = pages_of(i);
    const std::uint64_t granule = granules_[i];
    if (granule > 1) {
      const Bits bits(segment, nullptr);
      for (std::uint64_t at = 0; (at = bits.find(true, at, pages)) < pages;) {
        const std::uint64_t begin = down_to(at, granule);
        at = std::min(begin + granule, pages);
        unsent_.set(segment.region.id, PageRange{segment.region.range.first + begin, at - begin});
      }
    }
    for (const std::uint64_t word : segment.words) {
      left_ += static_cast<std::uint64_t>(std::popcount(word));
    }
  }
  first_place_ = recent_place_ = rest_place_ = {};
}

void PushOrder::set_first(const PageBitmap& first) { first_ = laid_out(first); }
void PushOrder::set_recent(const PageBitmap& recent) { recent_ = laid_out(recent); }

void PushOrder::clear(std::size_t region, Run run) {
  PageBitmap::Segment& segment = unsent_.segments()[region];
  for (std::uint64_t at = run.first; at < run.end();) {
    const std::uint64_t bit = at % 64;
    const std::uint64_t count = std::min(64 - bit, run.end() - at);
    const std::uint64_t mask = (~std::uint64_t{0} >> (64 - count)) << bit;
    std::uint64_t& word = segment.words[at / 64];
    left_ -= static_cast<std::uint64_t>(std::popcount(word & mask));
    word &= ~mask;
    at += count;
  }
}

void PushOrder::add(Batch& batch, Run run) {
  clear(batch.region, run);
  batch.pages += run.count;
  if (!batch.runs.empty() && batch.runs.back().end() == run.first) {
    batch.runs.back().count += run.count;
  } else {
    batch.runs.push_back(run);
  }
}

void PushOrder::fault(std::size_t region, Run run) {
  clear(region, run);
  const auto away = [&](const Pivot& pivot) {
    return run.first > pivot.at ? run.first - pivot.at : pivot.at - run.first;
  };
  auto near = pivots_.end();
  for (auto i = pivots_.begin(); i != pivots_.end(); ++i) {
    const bool known = i->region == region &&
                       (away(*i) <= kReach || (run.first >= i->down_end && run.first < i->up_end));
    if (known && (near == pivots_.end() || away(*i) < away(*near))) near = i;
  }
  Pivot pivot{.region = region, .at = run.first, .down = run.first, .up = run.end()};
  if (near != pivots_.end()) {
    pivot = *near;
    pivots_.erase(near);
    if (run.first > pivot.at) pivot.trend = std::max(pivot.trend, 0) + 1;
    if (run.first < pivot.at) pivot.trend = std::min(pivot.trend, 0) - 1;
    pivot.at = run.first;
    // Within what has left it goes on where it was; outside, this is where it begins.
    if (run.first < pivot.down || run.end() > pivot.up) {
      pivot.down = run.first;
      pivot.up = run.end();
    }
  }
  aim(pivot);
  pivots_.insert(pivots_.begin(), pivot);
  if (pivots_.size() > kPivotsMax) pivots_.pop_back();
}

void PushOrder::aim(Pivot& pivot) const {
  pivot.trend = std::clamp(pivot.trend, -kTrendSure - kDoublingsMax, kTrendSure + kDoublingsMax);
  const auto reach = [](int trend) {
    return kReach << static_cast<unsigned>(std::max(trend - kTrendSure, 0));
  };
  const std::uint64_t below = reach(-pivot.trend);
  pivot.down_end = pivot.at > below ? pivot.at - below : 0;
  pivot.up_end = std::min(pivot.at + reach(pivot.trend), pages_of(pivot.region));
}

bool PushOrder::next(std::uint64_t pages_max, Batch& batch) {
  batch.runs.clear();
  batch.pages = 0;
  if (left_ == 0) return false;
  if (next_of(&first_, first_place_, pages_max, batch)) return true;
  if (!open_) return false;
  if (pattern_ == PushPattern::kBubble &&
      (next_around(pages_max, batch) || next_of(&recent_, recent_place_, pages_max, batch))) {
    return true;
  }
  return next_of(nullptr, rest_place_, pages_max, batch);
}

bool PushOrder::next_of(const PageBitmap* set, Place& place, std::uint64_t pages_max,
                        Batch& batch) {
  for (; place.region < granules_.size(); place = {place.region + 1, 0}) {
    batch.region = place.region;
    place.page = take_up(set, place.page, pages_of(place.region), pages_max, batch);
    if (batch.pages > 0) return true;
  }
  return false;
}

bool PushOrder::next_around(std::uint64_t pages_max, Batch& batch) {
  while (!pivots_.empty()) {
    // The newest every second time, the one before it every fourth, and so on.
    const auto which = std::min<std::size_t>(static_cast<std::size_t>(std::countr_zero(++turn_)),
                                             pivots_.size() - 1);
    if (spread(pivots_[which], pages_max, batch)) return true;
    pivots_.erase(pivots_.begin() + static_cast<std::ptrdiff_t>(which));
  }
  return false;
}

bool PushOrder::spread(Pivot& pivot, std::uint64_t pages_max, Batch& batch) {
  batch.region = pivot.region;
  bool down = pivot.down_next;
  if (pivot.trend >= kTrendSure) down = false;
  if (pivot.trend <= -kTrendSure) down = true;
  for (int way = 0; way < 2; ++way, down = !down) {
    if (down) {
      pivot.down = take_down(pivot.down, pivot.down_end, pages_max, batch);
    } else {
      pivot.up = take_up(nullptr, pivot.up, pivot.up_end, pages_max, batch);
    }
    if (batch.pages == 0) continue;
    pivot.down_next = !down;
    return true;
  }
  return false;
}

std::uint64_t PushOrder::take_up(const PageBitmap* set, std::uint64_t from, std::uint64_t limit,
                                 std::uint64_t pages_max, Batch& batch) {
  const PageBitmap::Segment& unsent = unsent_.segments()[batch.region];
  const PageBitmap::Segment* const of = set != nullptr ? &set->segments()[batch.region] : nullptr;
  const Bits bits(unsent, of);
  const std::uint64_t granule = granules_[batch.region];
  std::uint64_t at = from;
  while (batch.pages == 0 || batch.pages + granule <= pages_max) {
    at = bits.find(true, at, limit);
    if (at == limit) break;
    const std::uint64_t room = std::max(pages_max - batch.pages, granule);
    const std::uint64_t begin = down_to(at, granule);
    std::uint64_t end = bits.find(false, at, std::min(limit, begin + down_to(room, granule)));
    end = std::min(up_to(end, granule), pages_of(batch.region));
    add(batch, {begin, end - begin});
    at = end;
  }
  return at;
}

std::uint64_t PushOrder::take_down(std::uint64_t from, std::uint64_t limit, std::uint64_t pages_max,
                                   Batch& batch) {
  const Bits bits(unsent_.segments()[batch.region], nullptr);
  const std::uint64_t granule = granules_[batch.region];
  std::vector<Run> runs;
  std::uint64_t pages = 0;
  std::uint64_t at = from;
  while (pages == 0 || pages + granule <= pages_max) {
    at = bits.find_down(true, at, limit);
    if (at == limit) break;
    const std::uint64_t room = down_to(std::max(pages_max - pages, granule), granule);
    const std::uint64_t end = std::min(up_to(at, granule), pages_of(batch.region));
    const std::uint64_t lowest = up_to(end, granule) > room ? up_to(end, granule) - room : 0;
    const std::uint64_t begin =
        down_to(bits.find_down(false, at, std::max(limit, lowest)), granule);
    runs.push_back({begin, end - begin});
    pages += end - begin;
    at = begin;
  }
  for (std::size_t i = runs.size(); i-- > 0;) add(batch, runs[i]);
  return at;
}

}  // namespace migrate::postcopy
