// PushOrder: what leaves next, as tables.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "postcopy/push_order.hpp"

namespace migrate::postcopy {

void PrintTo(const PushOrder::Run& run, std::ostream* out) {
  *out << run.first << "+" << run.count;
}

namespace {

using Pages = PushOrder::Run;
using testing::ElementsAre;

Region region(std::uint32_t id, std::uint64_t pages) {
  return {{0, id, 0}, {{id * 1'000'000}, pages}};
}

PageBitmap set_of(const std::vector<Region>& regions, std::size_t which, std::vector<Pages> runs) {
  PageBitmap set(regions);
  for (const Pages& run : runs) {
    const Region& of = regions[which];
    set.set(of.id, PageRange{of.range.first + run.first, run.count});
  }
  return set;
}

/// One region of so many pages, all of them missing.
struct OneRegion {
  explicit OneRegion(std::uint64_t pages, std::uint32_t granule = 1)
      : regions{region(0, pages)}, order(std::vector<PushOrder::Part>{{regions[0], granule}}) {
    order.set_missing(set_of(regions, 0, {{0, pages}}));
  }
  std::vector<Pages> next(std::uint64_t pages_max) {
    PushOrder::Batch batch;
    if (!order.next(pages_max, batch)) return {};
    std::uint64_t pages = 0;
    for (const Pages& run : batch.runs) pages += run.count;
    EXPECT_EQ(pages, batch.pages);
    return batch.runs;
  }
  std::vector<Region> regions;
  PushOrder order;
};

TEST(PushOrder, SendsOnlyWhatIsFirstUntilItIsOpen) {
  OneRegion one(1000);
  one.order.set_first(set_of(one.regions, 0, {{10, 3}, {900, 1}}));
  EXPECT_THAT(one.next(2), ElementsAre(Pages{10, 2}));
  EXPECT_THAT(one.next(64), ElementsAre(Pages{12, 1}, Pages{900, 1}));
  EXPECT_THAT(one.next(64), ElementsAre());
  one.order.open();
  EXPECT_THAT(one.next(64), ElementsAre(Pages{0, 10}, Pages{13, 54}));
}

TEST(PushOrder, SendsWhatWasWrittenLatelyBeforeTheRest) {
  OneRegion one(1000);
  one.order.open();
  one.order.set_recent(set_of(one.regions, 0, {{500, 2}, {700, 1}}));
  EXPECT_THAT(one.next(64), ElementsAre(Pages{500, 2}, Pages{700, 1}));
  EXPECT_THAT(one.next(4), ElementsAre(Pages{0, 4}));
  EXPECT_EQ(one.order.left(), 993u);
}

TEST(PushOrder, SpreadsBothWaysFromAFault) {
  OneRegion one(1000);
  one.order.open();
  one.order.fault(0, {500, 1});
  EXPECT_THAT(one.next(10), ElementsAre(Pages{501, 10}));
  EXPECT_THAT(one.next(10), ElementsAre(Pages{490, 10}));
  EXPECT_THAT(one.next(10), ElementsAre(Pages{511, 10}));
  EXPECT_THAT(one.next(10), ElementsAre(Pages{480, 10}));
}

TEST(PushOrder, FollowsAReaderThatAscends) {
  OneRegion one(100'000);
  one.order.open();
  for (const std::uint64_t page : {5000u, 5100u, 5200u}) one.order.fault(0, {page, 1});
  EXPECT_THAT(one.next(64), ElementsAre(Pages{5201, 64}));
  EXPECT_THAT(one.next(64), ElementsAre(Pages{5265, 64}));
  // Within what has left: it goes on where it was.
  one.order.fault(0, {5270, 1});
  EXPECT_THAT(one.next(64), ElementsAre(Pages{5329, 64}));
  // The reader is faster.
  one.order.fault(0, {5600, 1});
  EXPECT_THAT(one.next(64), ElementsAre(Pages{5601, 64}));
}

TEST(PushOrder, FollowsAReaderThatDescends) {
  OneRegion one(100'000);
  one.order.open();
  for (const std::uint64_t page : {5200u, 5100u, 5000u}) one.order.fault(0, {page, 1});
  EXPECT_THAT(one.next(64), ElementsAre(Pages{4936, 64}));
  EXPECT_THAT(one.next(64), ElementsAre(Pages{4872, 64}));
}

TEST(PushOrder, LeavesTheSurroundingsOfAFaultAfterItsReach) {
  OneRegion one(1'000'000);
  one.order.open();
  one.order.fault(0, {500'000, 1});
  std::uint64_t around = 0;
  std::vector<Pages> runs;
  for (runs = one.next(64); runs.front().first > 64; runs = one.next(64)) {
    for (const Pages& run : runs) around += run.count;
  }
  EXPECT_THAT(runs, ElementsAre(Pages{0, 64}));
  EXPECT_EQ(around, 2 * PushOrder::kReach - 1);
}

TEST(PushOrder, SpreadsFromSeveralFaultsTheNewestMost) {
  OneRegion one(1'000'000);
  one.order.open();
  const std::vector<std::uint64_t> faults = {100'000, 300'000, 500'000};
  for (const std::uint64_t page : faults) one.order.fault(0, {page, 1});
  std::vector<int> turns(faults.size());
  for (int i = 0; i < 16; ++i) {
    const std::uint64_t first = one.next(8).front().first;
    ++turns[(first + 50'000) / 200'000];
  }
  EXPECT_THAT(turns, ElementsAre(4, 4, 8));
}

TEST(PushOrder, GivesNothingOutThatWasDemanded) {
  OneRegion one(100);
  one.order.open();
  one.order.fault(0, {0, 100});
  EXPECT_EQ(one.order.left(), 0u);
  EXPECT_THAT(one.next(64), ElementsAre());
}

TEST(PushOrder, KeepsGranulesWhole) {
  OneRegion one(2048 + 100, 512);
  one.order.set_missing(set_of(one.regions, 0, {{600, 1}, {2100, 1}}));
  EXPECT_EQ(one.order.left(), 512u + 100u);
  one.order.set_first(set_of(one.regions, 0, {{700, 1}}));
  EXPECT_THAT(one.next(64), ElementsAre(Pages{512, 512}));
  one.order.open();
  EXPECT_THAT(one.next(64), ElementsAre(Pages{2048, 100}));
}

TEST(PushOrder, SpreadsByGranules) {
  OneRegion one(16 * 512, 512);
  one.order.open();
  one.order.fault(0, {4096, 512});
  EXPECT_THAT(one.next(64), ElementsAre(Pages{4096 + 512, 512}));
  EXPECT_THAT(one.next(64), ElementsAre(Pages{4096 - 512, 512}));
}

TEST(PushOrder, BeginsAnewWithWhatIsStillMissing) {
  OneRegion one(1000);
  one.order.open();
  while (!one.next(64).empty()) {
  }
  one.order.set_missing(set_of(one.regions, 0, {{7, 2}, {800, 1}}));
  EXPECT_EQ(one.order.left(), 3u);
  EXPECT_THAT(one.next(64), ElementsAre(Pages{7, 2}, Pages{800, 1}));
  EXPECT_THAT(one.next(64), ElementsAre());
}

TEST(PushOrder, GoesByAddressAloneWhenTold) {
  const std::vector<Region> regions = {region(0, 1000)};
  PushOrder order(std::vector<PushOrder::Part>{{regions[0], 1}}, PushPattern::kAddress);
  order.set_missing(set_of(regions, 0, {{0, 1000}}));
  order.set_first(set_of(regions, 0, {{900, 1}}));
  order.set_recent(set_of(regions, 0, {{700, 1}}));
  order.fault(0, {500, 1});
  order.open();
  PushOrder::Batch batch;
  ASSERT_TRUE(order.next(64, batch));
  EXPECT_THAT(batch.runs, ElementsAre(Pages{900, 1}));
  ASSERT_TRUE(order.next(500, batch));
  EXPECT_THAT(batch.runs, ElementsAre(Pages{0, 500}));
  ASSERT_TRUE(order.next(64, batch));
  EXPECT_THAT(batch.runs, ElementsAre(Pages{501, 64}));
}

TEST(PushOrder, GivesEveryPageOutOnce) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const std::uint32_t granule = 1u << (random() % 3 * 4);
    std::vector<Region> regions = {region(0, 5000 + random() % 5000), region(1, 1 + random() % 64),
                                   region(2, 3000)};
    PushOrder order(std::vector<PushOrder::Part>{
        {regions[0], 1}, {regions[1], granule}, {regions[2], granule}});
    PageBitmap missing(regions);
    for (int i = 0; i < 300; ++i) {
      const Region& of = regions[random() % 3];
      const std::uint64_t first = random() % of.range.count;
      const std::uint64_t count = std::min(1 + random() % 40, of.range.count - first);
      missing.set(of.id, PageRange{of.range.first + first, count});
    }
    order.set_missing(missing);
    const std::uint64_t all = order.left();
    order.open();
    std::set<std::pair<std::size_t, std::uint64_t>> seen;
    std::uint64_t given = 0;
    PushOrder::Batch batch;
    while (order.next(1 + random() % 100, batch)) {
      std::uint64_t after = 0;
      for (const Pages& run : batch.runs) {
        EXPECT_GE(run.first, after);
        after = run.end();
        EXPECT_LE(after, regions[batch.region].range.count);
        for (std::uint64_t page = run.first; page < run.end(); ++page) {
          EXPECT_TRUE(seen.emplace(batch.region, page).second) << page;
        }
        given += run.count;
      }
      if (random() % 4 != 0) continue;
      const std::size_t which = random() % 3;
      const std::uint64_t units = which == 0 ? 1 : granule;
      const std::uint64_t pages = regions[which].range.count;
      const std::uint64_t first = random() % pages / units * units;
      const Pages run{first, std::min(units, pages - first)};
      const std::uint64_t before = order.left();
      order.fault(which, run);
      for (std::uint64_t page = run.first; page < run.end(); ++page) seen.emplace(which, page);
      given += before - order.left();
    }
    EXPECT_EQ(given, all);
    EXPECT_EQ(order.left(), 0u);
    missing.for_each_run([&](const RegionId& id, PageRange run) {
      for (std::uint64_t i = 0; i < run.count; ++i) {
        const std::uint64_t page = run.first - regions[id.id].range.first + i;
        EXPECT_TRUE(seen.contains({id.id, page}));
      }
    });
  }
}

}  // namespace
}  // namespace migrate::postcopy
