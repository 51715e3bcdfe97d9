#include "tests/dirtylog/contract/migration_copy.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace migrate::testing {
namespace {

/// rearm() takes ranges that begin on multiples of it.
constexpr std::uint64_t kAlign = 64;
// In a round at random: one in so many regions and windows is left for later, and one in so many
// windows is followed by a peek.
constexpr std::uint64_t kLeaveRegion = 5;
constexpr std::uint64_t kLeaveWindow = 9;
constexpr std::uint64_t kLeaveRun = 17;
constexpr std::uint64_t kPeek = 12;
/// Windows re-armed before the first of them is read.
constexpr std::uint64_t kAheadMax = 4;
/// A process's mappings have been seen when they did not change from one look to the next.
constexpr int kLooksMax = 20;

std::string text_of(const RegionId& region, GuestPage page) {
  return "region " + to_text(region) + " page " + std::to_string(page.number);
}

std::uint64_t word_of(const std::byte* page, std::size_t word) {
  std::uint64_t value = 0;
  std::memcpy(&value, page + word * sizeof value, sizeof value);
  return value;
}

/// "word 3 is 17, not 18": each writer has a word of its own, so the number tells whose write it
/// was.
std::string difference(const std::byte* copy, const std::byte* memory) {
  std::string text;
  for (std::size_t word = 0; word < kPageSize / sizeof(std::uint64_t); ++word) {
    const std::uint64_t has = word_of(copy, word);
    const std::uint64_t wanted = word_of(memory, word);
    if (has == wanted) continue;
    if (!text.empty()) return text + ", and more";
    text = "word " + std::to_string(word) + " is " + std::to_string(has) + ", not " +
           std::to_string(wanted);
  }
  return text;
}

}  // namespace

void MigrationCopy::begin() {
  verdict_.expect(bed_.tracker().start(), "start");
  sync_regions();
}

/// True when the regions have changed.
bool MigrationCopy::sync_regions() {
  auto now = bed_.pages().regions();
  if (!now) {
    verdict_.complain("regions: " + now.error().to_text());
    return false;
  }
  if (*now == regions_) return false;
  regions_ = *std::move(now);
  unread_.reshape(regions_, true);
  std::erase_if(armed_, [&](const RegionId& id) { return unread_.find(id) == nullptr; });
  std::erase_if(content_, [&](const auto& entry) { return unread_.find(entry.first) == nullptr; });
  for (const Region& region : regions_) {
    content_.try_emplace(region.id, static_cast<std::size_t>(region.range.bytes()));
  }
  return true;
}

std::vector<Region> MigrationCopy::choose(bool at_random) {
  std::vector<Region> chosen;
  for (const Region& region : regions_) {
    if (!at_random || !chance_.one_in(kLeaveRegion)) chosen.push_back(region);
  }
  return chosen;
}

std::vector<MigrationCopy::Window> MigrationCopy::windows(const PageBitmap& set, bool at_random) {
  std::vector<Window> windows;
  const std::uint64_t longest = kAlign << (at_random ? chance_.below(6) : 20);
  for (const auto& segment : set.segments()) {
    const PageRange whole = segment.region.range;
    for (GuestPage first = whole.first; first < whole.end();) {
      const std::uint64_t some =
          at_random ? kAlign * (1 + chance_.below(longest / kAlign)) : longest;
      const PageRange pages{first, std::min(some, whole.end() - first)};
      first = pages.end();
      windows.push_back({segment.region.id, pages});
    }
  }
  for (std::size_t i = windows.size(); at_random && i > 1; --i) {
    std::swap(windows[i - 1], windows[chance_.below(i)]);
  }
  return windows;
}

void MigrationCopy::round(bool at_random) {
  sync_regions();
  const std::vector<Region> chosen = choose(at_random);
  PageBitmap set(chosen);
  if (!verdict_.expect(bed_.tracker().collect(set), "collect")) return;
  verdict_.count(1, 0);
  unread_.merge(set);
  for (const Region& region : chosen) armed_.insert(region.id);
  step({}, {});
  const bool rearm = !bed_.tracker().rearms_in_collect();
  std::vector<Window> ahead;
  const std::vector<Window> all = windows(set, at_random);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Window& window = all[i];
    if (at_random && chance_.one_in(kLeaveWindow)) continue;
    if (rearm) {
      verdict_.expect(bed_.tracker().rearm(set, window.region, window.pages), "rearm");
      step(window.region, window.pages);
    }
    ahead.push_back(window);
    if (at_random && i + 1 < all.size() && ahead.size() <= chance_.below(kAheadMax)) continue;
    if (at_random && chance_.one_in(kPeek)) peek(chosen, ahead);
    for (const Window& armed : ahead) read_window(armed, at_random);
    ahead.clear();
  }
  for (const Window& armed : ahead) read_window(armed, at_random);
}

/// What was written again since it was re-armed need not be read now: a later collect has it.
void MigrationCopy::peek(std::span<const Region> regions, std::span<const Window> armed) {
  PageBitmap again(regions);
  if (!verdict_.expect(bed_.tracker().peek(again), "peek")) return;
  for (const Window& window : armed) {
    const PageBitmap::Segment& segment = *again.find(window.region);
    const GuestPage end = window.pages.end();
    for (PageRange run = next_run(segment, window.pages.first, end); !run.empty();
         run = next_run(segment, run.end(), end)) {
      unread_.clear(window.region, run);
    }
    step(window.region, window.pages);
  }
}

void MigrationCopy::read_window(const Window& window, bool at_random) {
  const PageBitmap::Segment& segment = *unread_.find(window.region);
  const GuestPage end = window.pages.end();
  for (PageRange run = next_run(segment, window.pages.first, end); !run.empty();
       run = next_run(segment, run.end(), end)) {
    if (at_random && chance_.one_in(kLeaveRun)) continue;
    if (!read_run(window.region, run)) return;
    unread_.clear(window.region, run);
  }
  step(window.region, window.pages);
}

/// False when the memory is gone.
bool MigrationCopy::read_run(const RegionId& region, PageRange run) {
  std::vector<LoggedWord> logged;
  bed_.for_each_logged({run.first, 1}, [&](const LoggedWord& word) { logged.push_back(word); });
  const std::span<std::byte> into{page_of(region, run.first),
                                  static_cast<std::size_t>(run.bytes())};
  const auto outcome = bed_.pages().read(region, run, into);
  if (!outcome) {
    verdict_.complain("read: " + outcome.error().to_text());
    return false;
  }
  if (*outcome == ReadOutcome::kGone) return false;
  verdict_.count(0, run.count);
  check_not_older(region, run, logged);
  return true;
}

void MigrationCopy::check_not_older(const RegionId& region, PageRange run,
                                    std::span<const LoggedWord> before_read) {
  for (const LoggedWord& logged : before_read) {
    const std::uint64_t value = word_of(page_of(region, run.first), logged.word);
    if (value >= logged.at_least) continue;
    verdict_.complain(text_of(region, logged.page) + " reads older than what had been written");
  }
}

void MigrationCopy::compare() {
  bool settled = false;
  for (int look = 0; look < kLooksMax && !settled; ++look) {
    bed_.settle();
    full_round();
    // A collect that finds new memory makes system calls in a process, and the kernel writes to
    // that thread's memory (rseq) when they return: the second look is the one that counts.
    settled = look > 0 && !sync_regions() && unread_.empty();
  }
  if (!settled) verdict_.complain("regions change, or pages are unread, although nobody writes");
  for (const Region& region : regions_) compare_region(region);
  bed_.unsettle();
}

void MigrationCopy::compare_region(const Region& region) {
  std::vector<std::byte> memory(static_cast<std::size_t>(region.range.bytes()));
  const auto outcome = bed_.truth(region.id, region.range, memory);
  if (!outcome || *outcome == ReadOutcome::kGone) {
    verdict_.complain("region " + to_text(region.id) + " cannot be read");
    return;
  }
  for (std::uint64_t i = 0; i < region.range.count; ++i) {
    const GuestPage page = region.range.first + i;
    if (std::memcmp(page_of(region.id, page), memory.data() + i * kPageSize, kPageSize) == 0) {
      continue;
    }
    verdict_.complain(text_of(region.id, page) + " was lost: " +
                      difference(page_of(region.id, page), memory.data() + i * kPageSize));
    // So that the next comparison tells of what is lost from now on.
    std::memcpy(page_of(region.id, page), memory.data() + i * kPageSize, kPageSize);
  }
  bed_.for_each_logged(region.range, [&](const LoggedWord& logged) {
    const std::uint64_t value = word_of(page_of(region.id, logged.page), logged.word);
    if (value >= logged.at_least) return;
    verdict_.complain(text_of(region.id, logged.page) + " has generation " + std::to_string(value) +
                      " on the target; written was " + std::to_string(logged.at_least));
  });
}

std::byte* MigrationCopy::page_of(const RegionId& region, GuestPage page) {
  const PageBitmap::Segment& segment = *unread_.find(region);
  return content_.at(region).data() + (page - segment.region.range.first) * kPageSize;
}

}  // namespace migrate::testing
