#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "tests/dirtylog/contract/migration_copy.hpp"
#include "tests/dirtylog/contract/scenarios.hpp"

namespace migrate::testing {
namespace {

/// Collects until the noise of starting is over; more would be a tracker that never is quiet.
constexpr int kSettleRounds = 5;

using Pages = std::set<GuestPage>;

bool in_areas(const TrackerBed& bed, GuestPage page) {
  return std::any_of(bed.areas().begin(), bed.areas().end(),
                     [page](const PageRange& area) { return area.contains(page); });
}

/// The test's own tracker of what it writes, and calls to the real one.
class Quiet {
 public:
  Quiet(TrackerBed& bed, std::uint64_t seed) : bed_(bed), chance_(seed) {}

  /// Started, everything re-armed, nothing left to report.
  void settle() {
    verdict.expect(bed_.tracker().start(), "start");
    for (int i = 0; i < kSettleRounds; ++i) collect();
  }

  std::vector<Region> regions() {
    auto regions = bed_.pages().regions();
    if (regions) return *std::move(regions);
    verdict.complain(regions.error().to_text());
    return {};
  }

  /// Collects, re-arms and reads: what a round does. Gives the pages of the bed's areas.
  Pages collect() { return collect(regions()); }
  Pages collect(const std::vector<Region>& chosen) {
    PageBitmap set(chosen);
    if (!verdict.expect(bed_.tracker().collect(set), "collect")) return {};
    for (const Region& region : chosen) {
      verdict.expect(bed_.tracker().rearm(set, region.id, region.range), "rearm");
    }
    return read(set);
  }

  /// Nothing when the tracker refuses.
  std::optional<Pages> collect_if_it_can() {
    PageBitmap set(regions());
    if (!bed_.tracker().collect(set)) return std::nullopt;
    return pages_of(set);
  }

  Pages peek() {
    PageBitmap again(regions());
    verdict.expect(bed_.tracker().peek(again), "peek");
    return pages_of(again);
  }

  /// Changes some pages, by a pattern of chance's.
  Pages touch_some() {
    Pages touched;
    for (const PageRange& area : bed_.areas()) touch_some(area, touched);
    return touched;
  }

  void touch_some(const PageRange& area, Pages& touched) {
    const std::uint64_t last = area.count - 1;
    const std::uint64_t from = chance_.below(area.count);
    switch (chance_.below(6)) {
      case 0:  // First and last.
        touch({area.first, area.count}, std::max<std::uint64_t>(1, last), touched);
        return;
      case 1:  // Around a boundary of the bitmap's words.
        if (last > 63) touch({area.first + 63, 2}, 1, touched);
        return;
      case 2:
        touch(area, 1, touched);
        return;
      case 3:
        return;
      case 4:
        touch({area.first + from, 1 + chance_.below(area.count - from)}, 1, touched);
        return;
      default:
        touch({area.first + from, area.count - from}, 1 + chance_.below(70), touched);
    }
  }

  void expect_all(const Pages& wanted, const Pages& got, const char* what) {
    for (const GuestPage page : wanted) {
      if (got.contains(page)) continue;
      verdict.complain(std::string(what) + " lacks page " + std::to_string(page.number));
    }
  }

  /// No page but those, and those that share their unit of tracking.
  void expect_only(const Pages& allowed, const Pages& got, const char* what) {
    const std::uint64_t unit = bed_.granularity();
    std::set<std::uint64_t> units;
    for (const GuestPage page : allowed) units.insert(unit_of(page, unit));
    for (const GuestPage page : got) {
      if (units.contains(unit_of(page, unit))) continue;
      verdict.complain(std::string(what) + " has page " + std::to_string(page.number) +
                       ", which nobody wrote");
    }
  }

  Verdict verdict;

 private:
  void touch(PageRange pages, std::uint64_t stride, Pages& touched) {
    bed_.touch(pages, stride);
    for (std::uint64_t i = 0; i < pages.count; i += stride) touched.insert(pages.first + i);
  }

  /// Areas begin where their backing's pages begin.
  std::uint64_t unit_of(GuestPage page, std::uint64_t unit) const {
    for (const PageRange& area : bed_.areas()) {
      if (area.contains(page)) return area.first.number + (page - area.first) / unit * unit;
    }
    return page.number;
  }

  Pages pages_of(const PageBitmap& set) {
    Pages pages;
    set.for_each_run([&](const RegionId& region, PageRange run) {
      for (std::uint64_t i = 0; i < run.count; ++i) {
        if (region.space == 0 && in_areas(bed_, run.first + i)) pages.insert(run.first + i);
      }
    });
    return pages;
  }

  Pages read(const PageBitmap& set) {
    set.for_each_run([&](const RegionId& region, PageRange run) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(run.bytes()));
      if (auto outcome = bed_.pages().read(region, run, bytes); !outcome) {
        verdict.complain("read: " + outcome.error().to_text());
      }
    });
    return pages_of(set);
  }

  TrackerBed& bed_;
  Chance chance_;
};

}  // namespace

Verdict reports_exactly_what_was_written(TrackerBed& bed, std::uint64_t seed) {
  Quiet quiet(bed, seed);
  quiet.settle();
  for (int i = 0; i < 15; ++i) {
    const Pages touched = quiet.touch_some();
    const Pages got = quiet.collect();
    quiet.expect_all(touched, got, "a collect");
    quiet.expect_only(touched, got, "a collect");
  }
  return quiet.verdict;
}

Verdict reports_nothing_when_nothing_is_written(TrackerBed& bed, std::uint64_t seed) {
  Quiet quiet(bed, seed);
  quiet.settle();
  quiet.touch_some();
  quiet.collect();
  for (int i = 0; i < 60; ++i) quiet.expect_only({}, quiet.collect(), "a collect");
  return quiet.verdict;
}

Verdict peek_takes_nothing(TrackerBed& bed, std::uint64_t seed) {
  Quiet quiet(bed, seed);
  quiet.settle();
  for (int i = 0; i < 6; ++i) {
    Pages touched = quiet.touch_some();
    for (int k = 0; k < 3; ++k) {
      const Pages seen = quiet.peek();
      quiet.expect_only(touched, seen, "a peek");
      if (bed.peeks()) quiet.expect_all(touched, seen, "a peek");
      touched.merge(quiet.touch_some());
    }
    const Pages got = quiet.collect();
    quiet.expect_all(touched, got, "a collect after peeks");
    quiet.expect_only(touched, got, "a collect after peeks");
    quiet.expect_only({}, quiet.peek(), "a peek after a collect");
  }
  return quiet.verdict;
}

Verdict collect_keeps_what_the_set_had(TrackerBed& bed, std::uint64_t seed) {
  Quiet quiet(bed, seed);
  quiet.settle();
  PageBitmap set(quiet.regions());
  set.set_all();
  const PageBitmap all = set;
  quiet.touch_some();
  quiet.verdict.expect(bed.tracker().collect(set), "collect");
  if (set.count() != all.count()) quiet.verdict.complain("collect() cleared bits of its set");
  set.clear_all();
  quiet.touch_some();
  set.set_all();
  quiet.verdict.expect(bed.tracker().peek(set), "peek");
  if (set.count() != all.count()) quiet.verdict.complain("peek() cleared bits of its set");
  return quiet.verdict;
}

Verdict regions_left_out_are_kept(TrackerBed& bed, std::uint64_t seed) {
  Quiet quiet(bed, seed);
  Chance chance(seed + 1);
  quiet.settle();
  Pages owed;
  for (int i = 0; i < 15; ++i) {
    owed.merge(quiet.touch_some());
    std::vector<Region> chosen;
    for (const Region& region : quiet.regions()) {
      if (chance.one_in(2)) chosen.push_back(region);
    }
    Pages due;
    for (const Region& region : chosen) {
      for (const GuestPage page : owed) {
        if (region.id.space == 0 && region.range.contains(page)) due.insert(page);
      }
    }
    const Pages got = quiet.collect(chosen);
    quiet.expect_all(due, got, "a collect of some regions");
    quiet.expect_only(due, got, "a collect of some regions");
    for (const GuestPage page : due) owed.erase(page);
  }
  quiet.expect_all(owed, quiet.collect(), "the last collect");
  return quiet.verdict;
}

Verdict starts_again_after_stop(TrackerBed& bed, std::uint64_t seed) {
  Verdict verdict;
  for (std::uint64_t i = 0; i < 4; ++i) {
    Quiet quiet(bed, seed + i);
    quiet.settle();
    quiet.touch_some();
    const Pages touched = quiet.touch_some();
    quiet.expect_all(touched, quiet.collect(), "a collect after another start");
    quiet.touch_some();
    quiet.verdict.expect(bed.tracker().stop(), "stop");
    quiet.touch_some();
    verdict.add(quiet.verdict);
    verdict.expect(bed.tracker().stop(), "stop of a stopped tracker");
  }
  MigrationCopy copy(bed, seed);
  copy.begin();
  for (const PageRange& area : bed.areas()) bed.touch(area);
  copy.full_round();
  for (const PageRange& area : bed.areas()) bed.touch({area.first, 1});
  copy.compare();
  verdict.add(copy.verdict());
  verdict.expect(bed.tracker().stop(), "stop");
  return verdict;
}

// The interface leaves open what a stopped tracker says: an error, or what it still knows, be it
// nothing. It may not make anything up, nor be of no use afterwards.
Verdict stopped_tracker_never_lies(TrackerBed& bed, std::uint64_t seed) {
  Quiet quiet(bed, seed);
  quiet.settle();
  Pages touched = quiet.touch_some();
  quiet.verdict.expect(bed.tracker().stop(), "stop");
  touched.merge(quiet.touch_some());
  // An error, or all of it: a collect that succeeds may not keep quiet about a write.
  if (const auto collected = quiet.collect_if_it_can()) {
    quiet.expect_only(touched, *collected, "a collect of a stopped tracker");
    quiet.expect_all(touched, *collected, "a collect of a stopped tracker");
  }
  quiet.settle();
  touched = quiet.touch_some();
  quiet.expect_all(touched, quiet.collect(), "a collect after another start");
  return quiet.verdict;
}

Verdict writes_between_any_two_steps_are_kept(TrackerBed& bed, std::uint64_t seed) {
  MigrationCopy copy(bed, seed);
  Chance chance(seed + 1);
  copy.begin();
  copy.full_round();
  copy.between_steps = [&](const RegionId&, PageRange window) {
    for (const PageRange& area : bed.areas()) {
      // In the window under work, most of the time.
      if (area.contains(window) && !window.empty() && !chance.one_in(4)) {
        bed.touch({window.first + chance.below(window.count), 1});
      } else if (chance.one_in(8)) {
        bed.touch({area.first + chance.below(area.count), 1});
      }
    }
  };
  for (int i = 0; i < 20; ++i) {
    copy.random_round();
    if (!chance.one_in(6)) continue;
    std::function<void(const RegionId&, PageRange)> none;
    std::swap(copy.between_steps, none);
    copy.compare();
    std::swap(copy.between_steps, none);
  }
  copy.between_steps = nullptr;
  copy.compare();
  return copy.verdict();
}

// What a collect saw is written over before it is read, and the former content comes back after.
Verdict pages_changed_and_changed_back_are_kept(TrackerBed& bed, std::uint64_t seed) {
  MigrationCopy copy(bed, seed);
  copy.begin();
  copy.full_round();
  const PageRange area = bed.areas().back();
  for (std::uint64_t i = 0; i < 8; ++i) {
    bed.put(area, 1);
    bool collected = false;
    copy.between_steps = [&](const RegionId&, PageRange window) {
      // The first step is after the collect, before anything is read.
      if (!collected && window.empty()) bed.put(area, 2);
      collected = true;
    };
    copy.full_round();
    copy.between_steps = nullptr;
    bed.put(area, 1);
    copy.compare();
  }
  return copy.verdict();
}

const std::vector<Scenario>& quiet_scenarios() {
  static const std::vector<std::uint64_t> kTiny = {1, 63, 64, 65, 200};
  static const std::vector<Scenario> kScenarios = {
      {"ReportsExactlyWhatWasWritten", kTiny, reports_exactly_what_was_written},
      {"ReportsNothingWhenNothingIsWritten", kTiny, reports_nothing_when_nothing_is_written},
      {"PeekTakesNothing", kTiny, peek_takes_nothing},
      {"CollectKeepsWhatTheSetHad", kTiny, collect_keeps_what_the_set_had},
      {"RegionsLeftOutAreKept", kTiny, regions_left_out_are_kept},
      {"StartsAgainAfterStop", kTiny, starts_again_after_stop},
      {"StoppedTrackerNeverLies", kTiny, stopped_tracker_never_lies},
      {"WritesBetweenAnyTwoStepsAreKept", {300, 65, 1}, writes_between_any_two_steps_are_kept},
      {"PagesChangedAndChangedBackAreKept", {65, 130}, pages_changed_and_changed_back_are_kept},
  };
  return kScenarios;
}

}  // namespace migrate::testing
