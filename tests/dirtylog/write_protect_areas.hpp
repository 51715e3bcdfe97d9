// Shorthands for tests of the write-protect tracker on mapped areas.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <initializer_list>
#include <memory>
#include <vector>

#include "memory/userfault.hpp"
#include "tests/dirtylog/mapped_area.hpp"

namespace migrate::testing {

#define MIGRATE_NEEDS_WRITE_PROTECT()                                                        \
  do {                                                                                       \
    if (!probe_userfault().write_protect_async()) {                                          \
      GTEST_SKIP() << "userfaultfd: no WP_ASYNC here (errno " << probe_userfault().sys_errno \
                   << ")";                                                                   \
    }                                                                                        \
  } while (false)

inline std::unique_ptr<DirtyTracker> tracker_of(std::initializer_list<const MappedArea*> areas) {
  std::vector<MappedRegion> regions;
  for (const MappedArea* area : areas) regions.push_back(area->mapped());
  auto tracker = make_write_protect_tracker(regions);
  EXPECT_TRUE(tracker) << tracker.error().to_text();
  return tracker ? *std::move(tracker) : nullptr;
}

inline std::unique_ptr<DirtyTracker> started(std::initializer_list<const MappedArea*> areas) {
  auto tracker = tracker_of(areas);
  const Status status = tracker->start();
  EXPECT_TRUE(status) << status.error().to_text();
  return tracker;
}

inline PageBitmap set_of(const MappedArea& area) { return PageBitmap(std::array{area.region()}); }

inline std::vector<std::uint64_t> collected(DirtyTracker& tracker, const MappedArea& area) {
  PageBitmap set = set_of(area);
  const Status status = tracker.collect(set);
  EXPECT_TRUE(status) << status.error().to_text();
  return indexes(set, area);
}

inline std::vector<std::uint64_t> peeked(DirtyTracker& tracker, const MappedArea& area) {
  PageBitmap set = set_of(area);
  EXPECT_TRUE(tracker.peek(set));
  return indexes(set, area);
}

/// Declares `area`, or skips where this host has no such memory.
#define MIGRATE_AREA(area, kind, pages)   \
  const MappedArea area((kind), (pages)); \
  if (!area.why_not().empty()) GTEST_SKIP() << area.why_not()

}  // namespace migrate::testing
