// The write-protect tracker on memory of every backing: what is written is told, what is not is
// not, whatever happens to the mapping meanwhile.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "tests/dirtylog/write_protect_areas.hpp"

namespace migrate::testing {

static void PrintTo(AreaKind kind, std::ostream* out) { *out << static_cast<int>(kind); }

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Each written page is in `found`, and nothing further from one than the granularity.
void expect_told(const std::vector<std::uint64_t>& found, const std::vector<std::uint64_t>& written,
                 const MappedArea& area) {
  EXPECT_THAT(found, ::testing::IsSupersetOf(written));
  const std::uint64_t unit = area.granularity();
  for (const std::uint64_t page : found) {
    const bool near = std::any_of(written.begin(), written.end(),
                                  [&](std::uint64_t one) { return one / unit == page / unit; });
    EXPECT_TRUE(near) << "page " << page << " was not written";
  }
}

class WriteProtect : public ::testing::TestWithParam<AreaKind> {
 protected:
  void SetUp() override { MIGRATE_NEEDS_WRITE_PROTECT(); }
};

std::string name_of(const ::testing::TestParamInfo<AreaKind>& kind) {
  const std::array names{"Private", "Memfd", "TransparentHuge", "HugetlbPrivate", "HugetlbMemfd"};
  return names[static_cast<std::size_t>(kind.param)];
}

INSTANTIATE_TEST_SUITE_P(Backings, WriteProtect,
                         ::testing::Values(AreaKind::kPrivate, AreaKind::kMemfd,
                                           AreaKind::kTransparentHuge, AreaKind::kHugetlbPrivate,
                                           AreaKind::kHugetlbMemfd),
                         name_of);

TEST_P(WriteProtect, TellsTheWrittenPagesOnceAndNoOthers) {
  MIGRATE_AREA(area, GetParam(), 2048);
  area.write_all();
  const auto tracker = started({&area});
  EXPECT_TRUE(tracker->rearms_in_collect());
  EXPECT_THAT(collected(*tracker, area), IsEmpty());

  const std::vector<std::uint64_t> written{0, 1, 2, 63, 64, 700, 2047};
  for (const std::uint64_t page : written) area.write(page);
  expect_told(peeked(*tracker, area), written, area);
  expect_told(collected(*tracker, area), written, area);
  EXPECT_THAT(peeked(*tracker, area), IsEmpty());
  EXPECT_THAT(collected(*tracker, area), IsEmpty());

  area.write(64);
  expect_told(collected(*tracker, area), {64}, area);
}

TEST_P(WriteProtect, TellsTheFirstWriteToMemoryThatWasNeverTouched) {
  MIGRATE_AREA(area, GetParam(), 1536);
  const auto tracker = started({&area});
  EXPECT_THAT(collected(*tracker, area), IsEmpty());
  area.write(5);
  area.write(1300);
  expect_told(collected(*tracker, area), {5, 1300}, area);
  EXPECT_THAT(collected(*tracker, area), IsEmpty());
}

TEST_P(WriteProtect, TellsNothingOfReads) {
  MIGRATE_AREA(area, GetParam(), 1024);
  area.write(3);
  const auto tracker = started({&area});
  area.read_all();  // Of holes, too: the kernel puts pages of zeros there.
  EXPECT_THAT(collected(*tracker, area), IsEmpty());
}

TEST_P(WriteProtect, WritersAtFullSpeedBesideManyCollectsLoseNothing) {
  MIGRATE_AREA(area, GetParam(), 2048);
  const auto tracker = started({&area});
  AreaCopy copy(area);
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> writes{0};
  std::vector<std::thread> writers;
  for (std::uint64_t seed : {1U, 2U}) {
    writers.emplace_back([&, seed] {
      std::uint64_t random = seed;
      while (!done.load(std::memory_order_relaxed)) {
        random = random * 6364136223846793005U + 1442695040888963407U;
        area.write((random >> 33) % area.pages());
        writes.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  // However busy the host: until the writers have written each page often beside the collects.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (int round = 0; round < 300 || writes < 20 * area.pages(); ++round) {
    PageBitmap set = set_of(area);
    EXPECT_TRUE(tracker->collect(set));
    copy.read(set);
    if (std::chrono::steady_clock::now() > deadline) break;
    if (round % 7 == 0) (void)peeked(*tracker, area);
  }
  done = true;
  for (std::thread& writer : writers) writer.join();
  PageBitmap last = set_of(area);
  ASSERT_TRUE(tracker->collect(last));
  copy.read(last);
  EXPECT_THAT(copy.stale(), IsEmpty());
  EXPECT_GE(writes, 20 * area.pages());
}

TEST_P(WriteProtect, SeesTheKernelReadingIntoTheMemory) {
  MIGRATE_AREA(area, GetParam(), 1024);
  area.write_all();
  const auto tracker = started({&area});
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const Fd from(ends[0]);
  const Fd to(ends[1]);
  ASSERT_EQ(::write(to.get(), "content", 7), 7);
  ASSERT_EQ(::read(from.get(), area.page(600), 7), 7);
  expect_told(collected(*tracker, area), {600}, area);
}

TEST_P(WriteProtect, NoticesMemoryMappedAnewInItsPlace) {
  MappedArea area(GetParam(), 1024);
  if (!area.why_not().empty()) GTEST_SKIP() << area.why_not();
  area.write_all();
  const auto tracker = started({&area});
  ASSERT_EQ(::munmap(area.address(), area.bytes()), 0);
  area.map();
  EXPECT_EQ(peeked(*tracker, area).size(), area.pages());
  EXPECT_EQ(collected(*tracker, area).size(), area.pages());
  // And goes on there.
  EXPECT_THAT(collected(*tracker, area), IsEmpty());
  area.write(9);
  expect_told(collected(*tracker, area), {9}, area);
  EXPECT_TRUE(tracker->stop());
}

TEST_P(WriteProtect, StartsAgainAfterAStopAndForgetsWhatWasBefore) {
  MIGRATE_AREA(area, GetParam(), 1024);
  area.write_all();
  const auto tracker = started({&area});
  area.write(1);
  ASSERT_TRUE(tracker->stop());
  ASSERT_TRUE(tracker->stop());
  area.write(2);
  ASSERT_TRUE(tracker->start());
  EXPECT_THAT(collected(*tracker, area), IsEmpty());
  area.write(600);
  expect_told(collected(*tracker, area), {600}, area);
}

class WriteProtectDetail : public ::testing::Test {
 protected:
  void SetUp() override { MIGRATE_NEEDS_WRITE_PROTECT(); }
};

TEST_F(WriteProtectDetail, TellsPrivateMemoryThatWasDiscarded) {
  for (const AreaKind kind : {AreaKind::kPrivate, AreaKind::kTransparentHuge}) {
    const MappedArea area(kind, 2048);
    area.write_all();
    const auto tracker = started({&area});
    // Two pages, and a piece that loses its page table or its huge page.
    ASSERT_EQ(::madvise(area.page(100), 2 * kPageSize, MADV_DONTNEED), 0);
    ASSERT_EQ(::madvise(area.page(1024), 512 * kPageSize, MADV_DONTNEED), 0);
    std::vector<std::uint64_t> discarded{100, 101};
    for (std::uint64_t page = 1024; page < 1536; ++page) discarded.push_back(page);
    expect_told(collected(*tracker, area), discarded, area);
    EXPECT_THAT(collected(*tracker, area), IsEmpty());
  }
}

TEST_F(WriteProtectDetail, TellsWritesToAMemfdWhoseMappingWasDiscardedAfterwards) {
  const MappedArea area(AreaKind::kMemfd, 1024);
  area.write_all();
  const auto tracker = started({&area});
  for (std::uint64_t page = 512; page < 1024; ++page) area.write(page);
  // The content stays in the file; only the mapping knew that it is new.
  ASSERT_EQ(::madvise(area.page(512), 512 * kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(collected(*tracker, area).size(), 512U);
}

TEST_F(WriteProtectDetail, TellsWrittenHugetlbPagesThatWereDiscardedAndTheirNextWrite) {
  for (const AreaKind kind : {AreaKind::kHugetlbPrivate, AreaKind::kHugetlbMemfd}) {
    MIGRATE_AREA(area, kind, 1024);
    const auto tracker = started({&area});
    area.write(0);
    ASSERT_EQ(::madvise(area.address(), 512 * kPageSize, MADV_DONTNEED), 0);
    expect_told(peeked(*tracker, area), {0}, area);
    expect_told(collected(*tracker, area), {0}, area);
    EXPECT_THAT(collected(*tracker, area), IsEmpty());
    area.write(0);
    expect_told(collected(*tracker, area), {0}, area);
  }
}

TEST_F(WriteProtectDetail, KeepsWhatARoundDoesNotAskFor) {
  const MappedArea one(AreaKind::kPrivate, 128, 1);
  const MappedArea two(AreaKind::kMemfd, 128, 2);
  const auto tracker = started({&one, &two});
  one.write(7);
  two.write(8);
  EXPECT_THAT(collected(*tracker, one), ElementsAre(7));
  EXPECT_THAT(collected(*tracker, two), ElementsAre(8));
}

TEST_F(WriteProtectDetail, AFailedCollectLosesNothing) {
  const MappedArea good(AreaKind::kPrivate, 128, 1);
  MappedArea bad(AreaKind::kPrivate, 128, 2);
  const auto tracker = started({&good, &bad});
  good.write(7);
  ASSERT_EQ(::munmap(bad.address(), bad.bytes()), 0);
  PageBitmap both(std::array{good.region(), bad.region()});
  const Status failed = tracker->collect(both);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(failed.error().remedy, HasSubstr("keep the memory of region 0:2.0 mapped"));
  EXPECT_TRUE(both.empty());
  // The page was taken from the kernel before the failure.
  EXPECT_THAT(peeked(*tracker, good), ElementsAre(7));
  bad.map();
  ASSERT_TRUE(tracker->collect(both));
  EXPECT_THAT(indexes(both, good), ElementsAre(7));
  EXPECT_EQ(indexes(both, bad).size(), bad.pages());
}

TEST_F(WriteProtectDetail, AStartForgetsWhatAFailedCollectHadTaken) {
  const MappedArea good(AreaKind::kPrivate, 128, 1);
  MappedArea bad(AreaKind::kPrivate, 128, 2);
  const auto tracker = started({&good, &bad});
  good.write(7);
  ASSERT_EQ(::munmap(bad.address(), bad.bytes()), 0);
  PageBitmap both(std::array{good.region(), bad.region()});
  ASSERT_FALSE(tracker->collect(both));
  bad.map();
  ASSERT_TRUE(tracker->stop());
  ASSERT_TRUE(tracker->start());
  EXPECT_THAT(collected(*tracker, good), IsEmpty());
}

TEST_F(WriteProtectDetail, TellsMoreRunsThanOneCallOfTheKernelGives) {
  const MappedArea area(AreaKind::kPrivate, 30000);
  const auto tracker = started({&area});
  std::vector<std::uint64_t> written;
  for (std::uint64_t page = 0; page < area.pages(); page += 2) {
    area.write(page);
    written.push_back(page);
  }
  EXPECT_EQ(peeked(*tracker, area), written);
  EXPECT_EQ(collected(*tracker, area), written);
  EXPECT_THAT(collected(*tracker, area), IsEmpty());
}

TEST_F(WriteProtectDetail, RefusesASecondTrackerByTheNameOfTheFirst) {
  const MappedArea area(AreaKind::kPrivate, 128);
  const auto first = started({&area});
  const auto second = tracker_of({&area});
  const Status refused = second->start();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  EXPECT_THAT(refused.error().message, HasSubstr("of write-protect tracking"));
  // The first one is unharmed.
  area.write(3);
  EXPECT_THAT(collected(*first, area), ElementsAre(3));
  ASSERT_TRUE(first->stop());
  EXPECT_TRUE(second->start());
}

TEST_F(WriteProtectDetail, StartsAllRegionsOrNone) {
  const MappedArea free(AreaKind::kPrivate, 128, 1);
  const MappedArea taken(AreaKind::kPrivate, 128, 2);
  const auto other = started({&taken});
  const auto tracker = tracker_of({&free, &taken});
  ASSERT_FALSE(tracker->start());
  EXPECT_TRUE(tracker_of({&free})->start());
}

TEST_F(WriteProtectDetail, RefusesRegionsThatCannotBeTracked) {
  const MappedArea area(AreaKind::kPrivate, 128);
  const MappedRegion good = area.mapped();
  const auto refused = [](std::vector<MappedRegion> regions) {
    const auto tracker = make_write_protect_tracker(regions);
    return tracker ? ErrorCode::kInternal : tracker.error().code;
  };
  MappedRegion bad = good;
  bad.address = nullptr;
  EXPECT_EQ(refused({bad}), ErrorCode::kInvalidArgument);
  bad.address = good.address + 1;
  EXPECT_EQ(refused({bad}), ErrorCode::kInvalidArgument);
  bad = good;
  bad.region.range.count = 0;
  EXPECT_EQ(refused({bad}), ErrorCode::kInvalidArgument);
  bad.region.range.count = ~std::uint64_t{0} / 2;
  EXPECT_EQ(refused({bad}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused({good, good}), ErrorCode::kInvalidArgument);
  bad = good;
  bad.region.id.id = 9;
  bad.address = good.address + kPageSize;
  EXPECT_EQ(refused({good, bad}), ErrorCode::kInvalidArgument);
}

TEST_F(WriteProtectDetail, RefusesPartsOfHugetlbPages) {
  MIGRATE_AREA(area, AreaKind::kHugetlbPrivate, 1024);
  MappedRegion part = area.mapped();
  part.region.range.count = 700;
  const auto tracker = make_write_protect_tracker({&part, 1});
  ASSERT_TRUE(tracker);
  const Status refused = (*tracker)->start();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace migrate::testing
