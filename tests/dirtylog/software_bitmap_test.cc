// Marks of a VMM's own writes, and a tracker joined with them.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>

#include "migrate/trackers.hpp"

namespace migrate {
namespace {

const std::vector<Region> kRegions = {
    {{0, 0, 0}, {{0}, 100}, Backing::kMemfd},
    {{0, 1, 0}, {{1000}, 300}, Backing::kMemfd},
    {{5, 0, 0}, {{0}, 64}, Backing::kAnonymous},
};
const RegionId kLow = kRegions[0].id;
const RegionId kHigh = kRegions[1].id;

PageBitmap collected(DirtyTracker& tracker) {
  PageBitmap set(kRegions);
  EXPECT_TRUE(tracker.collect(set));
  return set;
}

TEST(SoftwareBitmap, ReportsMarkedPagesOnce) {
  const auto marks = make_software_bitmap(kRegions);
  ASSERT_TRUE(marks->start());
  marks->mark(0, PageRange{{60}, 10});
  marks->mark(5, PageRange{{3}, 1});
  const PageBitmap set = collected(*marks);
  EXPECT_EQ(set.count(), 11U);
  EXPECT_TRUE(set.test(kLow, {60}) && set.test(kLow, {69}));
  EXPECT_TRUE(set.test(kRegions[2].id, {3}));
  EXPECT_TRUE(collected(*marks).empty());
}

TEST(SoftwareBitmap, MarksBytesByThePagesTheyTouch) {
  const auto marks = make_software_bitmap(kRegions);
  marks->mark(GuestAddr{1001 * kPageSize - 1}, 2);
  marks->mark(GuestAddr{7 * kPageSize}, 0);
  const PageBitmap set = collected(*marks);
  EXPECT_EQ(set.count(), 2U);
  EXPECT_TRUE(set.test(kHigh, {1000}) && set.test(kHigh, {1001}));
}

TEST(SoftwareBitmap, IgnoresWhatIsInNoRegionAndClipsWhatIsPartly) {
  const auto marks = make_software_bitmap(kRegions);
  marks->mark(0, PageRange{{90}, 1000});
  marks->mark(1, PageRange{{0}, 64});
  marks->mark(GuestAddr{~std::uint64_t{0} - 5}, 100);
  const PageBitmap set = collected(*marks);
  EXPECT_EQ(set.count(), 10U + 90U);
  EXPECT_TRUE(set.test(kLow, {99}) && set.test(kHigh, {1089}));
}

TEST(SoftwareBitmap, PeekTakesNothing) {
  const auto marks = make_software_bitmap(kRegions);
  marks->mark(0, PageRange{{1}, 2});
  PageBitmap again(kRegions);
  ASSERT_TRUE(marks->peek(again));
  EXPECT_EQ(again.count(), 2U);
  EXPECT_EQ(collected(*marks).count(), 2U);
}

TEST(SoftwareBitmap, KeepsMarksOfRegionsTheSetDoesNotHave) {
  const auto marks = make_software_bitmap(kRegions);
  marks->mark(0, PageRange{{1}, 1});
  marks->mark(0, PageRange{{1000}, 1});
  PageBitmap only_high(std::span<const Region>(kRegions).subspan(1, 1));
  ASSERT_TRUE(marks->collect(only_high));
  EXPECT_EQ(only_high.count(), 1U);
  const PageBitmap rest = collected(*marks);
  EXPECT_EQ(rest.count(), 1U);
  EXPECT_TRUE(rest.test(kLow, {1}));
}

// Writers bump a page and then mark it; the collector copies marked pages. Whatever the
// interleaving, the copy is the memory in the end.
TEST(SoftwareBitmap, LosesNoWriteOfConcurrentWriters) {
  constexpr std::size_t kPages = 100;
  const auto marks = make_software_bitmap(kRegions);
  std::array<std::atomic<std::uint64_t>, kPages> memory{};
  std::array<std::uint64_t, kPages> copy{};
  std::atomic<int> writing{2};
  std::vector<std::jthread> writers;
  for (int w = 0; w < 2; ++w) {
    writers.emplace_back([&, w] {
      for (std::uint64_t i = 0; i < 100'000; ++i) {
        const std::uint64_t page = (i * 7 + static_cast<std::uint64_t>(w)) % kPages;
        memory[page].fetch_add(1, std::memory_order_relaxed);
        marks->mark(0, PageRange{{page}, 1});
      }
      --writing;
    });
  }
  bool last = false;
  while (true) {
    collected(*marks).for_each_run([&](const RegionId&, PageRange run) {
      for (std::uint64_t i = 0; i < run.count; ++i) {
        const std::uint64_t page = run.first.number + i;
        copy[page] = memory[page].load(std::memory_order_relaxed);
      }
    });
    if (last) break;
    last = writing == 0;
  }
  for (std::size_t i = 0; i < kPages; ++i) EXPECT_EQ(copy[i], memory[i].load()) << "page " << i;
}

/// A tracker that reports what it is told to, and says what it was asked.
class ScriptedTracker final : public DirtyTracker {
 public:
  [[nodiscard]] std::string_view name() const override { return "scripted"; }
  [[nodiscard]] DirtyCoverage covers() const override { return {.guest_cpu = true}; }
  [[nodiscard]] bool rearms_in_collect() const override { return false; }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return {7}; }
  Status start() override { return {}; }
  Status collect(PageBitmap& set) override {
    if (fails) return make_error(ErrorCode::kIo, "scripted");
    set.set(kLow, GuestPage{5});
    return {};
  }
  Status rearm(const PageBitmap&, const RegionId&, PageRange range) override {
    rearmed += range.count;
    return {};
  }
  Status peek(PageBitmap& again) override {
    again.set(kLow, GuestPage{6});
    return {};
  }
  Status stop() override { return {}; }

  bool fails = false;
  std::uint64_t rearmed = 0;
};

TEST(CompositeTracker, IsDirtyWhereEitherSaysSo) {
  auto primary = std::make_unique<ScriptedTracker>();
  ScriptedTracker& scripted = *primary;
  const auto marks = make_software_bitmap(kRegions);
  const auto both = make_composite_tracker({std::move(primary), marks});
  EXPECT_EQ(both->name(), "scripted");
  EXPECT_TRUE(both->covers().guest_cpu && both->covers().vmm && both->covers().pinned);
  EXPECT_FALSE(both->covers().kvm);
  EXPECT_EQ(both->written_by_vcpu(), std::vector<std::uint64_t>{7});
  EXPECT_FALSE(both->rearms_in_collect());
  ASSERT_TRUE(both->start());
  marks->mark(0, PageRange{{1000}, 1});
  PageBitmap again(kRegions);
  ASSERT_TRUE(both->peek(again));
  EXPECT_TRUE(again.test(kLow, {6}) && again.test(kHigh, {1000}));
  const PageBitmap set = collected(*both);
  EXPECT_TRUE(set.test(kLow, {5}) && set.test(kHigh, {1000}));
  EXPECT_EQ(set.count(), 2U);
  ASSERT_EQ(both->counts().size(), 2U);
  EXPECT_EQ(both->counts()[0].name, "scripted");
  EXPECT_EQ(both->counts()[0].pages, 1U);
  EXPECT_EQ(both->counts()[1].name, "software");
  EXPECT_EQ(both->counts()[1].pages, 1U);
  ASSERT_TRUE(both->rearm(set, kLow, PageRange{{0}, 100}));
  EXPECT_EQ(scripted.rearmed, 100U);
}

TEST(CompositeTracker, KeepsMarksWhenAnotherPartFails) {
  auto primary = std::make_unique<ScriptedTracker>();
  ScriptedTracker& scripted = *primary;
  const auto marks = make_software_bitmap(kRegions);
  const auto both = make_composite_tracker({std::move(primary), marks});
  marks->mark(0, PageRange{{1000}, 1});
  scripted.fails = true;
  PageBitmap lost(kRegions);
  EXPECT_FALSE(both->collect(lost));
  scripted.fails = false;
  EXPECT_TRUE(collected(*both).test(kHigh, {1000}));
}

// Also what a part has handed over before the other one failed, and for regions asked for later.
TEST(CompositeTracker, KeepsWhatWasTakenBeforeAPartFailed) {
  const auto scripted = std::make_shared<ScriptedTracker>();
  const auto marks = make_software_bitmap(kRegions);
  const auto both = make_composite_tracker({marks, scripted});
  marks->mark(0, PageRange{{1000}, 1});
  marks->mark(0, PageRange{{7}, 1});
  scripted->fails = true;
  PageBitmap lost(kRegions);
  EXPECT_FALSE(both->collect(lost));
  EXPECT_TRUE(lost.empty());
  scripted->fails = false;
  PageBitmap low(std::span<const Region>(kRegions).first(1));
  ASSERT_TRUE(both->collect(low));
  EXPECT_TRUE(low.test(kLow, {7}));
  EXPECT_TRUE(collected(*both).test(kHigh, {1000}));
  PageBitmap again(kRegions);
  ASSERT_TRUE(both->collect(again));
  EXPECT_EQ(again.count(), 1U) << "only what the scripted part always says";
}

}  // namespace
}  // namespace migrate
