// Which tracker is best: the policy by table, and the probe against what the makers really do here.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <vector>

#include "migrate/tracker_choice.hpp"
#include "migrate/trackers.hpp"

namespace migrate {
namespace {

constexpr std::array kAll = {TrackerKind::kKvmBitmap,    TrackerKind::kKvmRing,
                             TrackerKind::kWriteProtect, TrackerKind::kProcessWriteProtect,
                             TrackerKind::kSoftDirty,    TrackerKind::kContentHash};

std::vector<TrackerOffer> offers_of(const std::vector<TrackerKind>& available) {
  std::vector<TrackerOffer> offers;
  for (const TrackerKind kind : kAll) {
    const bool there = std::find(available.begin(), available.end(), kind) != available.end();
    offers.push_back({kind, there, {}, {}});
  }
  return offers;
}

struct Case {
  GuestKind guest;
  bool has_ring;
  std::vector<TrackerKind> available;
  TrackerKind best;
};

TEST(BestTracker, FollowsTheTable) {
  using enum TrackerKind;
  const std::vector<Case> cases = {
      {GuestKind::kVm, false, {kKvmBitmap, kKvmRing, kWriteProtect, kContentHash}, kKvmBitmap},
      {GuestKind::kVm, true, {kKvmBitmap, kKvmRing, kWriteProtect, kContentHash}, kKvmRing},
      {GuestKind::kVm, false, {kWriteProtect, kProcessWriteProtect, kContentHash}, kWriteProtect},
      {GuestKind::kVm, true, {kKvmBitmap, kContentHash}, kContentHash},
      {GuestKind::kVm, false, {kProcessWriteProtect, kSoftDirty}, kContentHash},
      {GuestKind::kContainer,
       false,
       {kKvmBitmap, kWriteProtect, kProcessWriteProtect, kSoftDirty},
       kProcessWriteProtect},
      {GuestKind::kContainer, false, {kKvmBitmap, kWriteProtect, kSoftDirty}, kSoftDirty},
      {GuestKind::kContainer, false, {kKvmBitmap, kWriteProtect}, kContentHash},
      {GuestKind::kVm, false, {}, kContentHash},
  };
  for (const Case& row : cases) {
    const auto offers = offers_of(row.available);
    EXPECT_EQ(best_tracker(row.guest, row.has_ring, offers), row.best)
        << &row - cases.data() << ": " << to_string(row.best);
  }
}

TEST(ProbeTrackers, TellsOfEachKindOnceAndWhyNot) {
  const auto offers = probe_trackers(-1);
  ASSERT_EQ(offers.size(), kAll.size());
  for (std::size_t i = 0; i < kAll.size(); ++i) {
    EXPECT_EQ(offers[i].kind, kAll[i]);
    EXPECT_FALSE(offers[i].detail.empty()) << to_string(kAll[i]);
    EXPECT_TRUE(offers[i].available || !offers[i].remedy.empty()) << to_string(kAll[i]);
  }
  EXPECT_FALSE(offers[0].available) << "no /dev/kvm was given";
  EXPECT_FALSE(offers[1].available) << "no /dev/kvm was given";
  EXPECT_TRUE(offers.back().available) << "the content hash works everywhere";
}

TEST(ProbeTrackers, PromisesWriteProtectionExactlyWhereItStarts) {
  void* const memory =
      ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const MappedRegion region{{RegionId{}, PageRange{{0}, 1}, Backing::kAnonymous},
                            static_cast<std::byte*>(memory)};
  auto tracker = make_write_protect_tracker(std::span(&region, 1));
  const bool starts = tracker && (*tracker)->start();
  EXPECT_EQ(probe_trackers(-1)[2].available, starts);
  if (starts) {
    EXPECT_TRUE((*tracker)->stop());
  }
  ::munmap(memory, kPageSize);
}

TEST(ProbeTrackers, NamesTrackersAsTheyNameThemselves) {
  EXPECT_EQ(to_string(TrackerKind::kKvmBitmap), "kvm-bitmap");
  EXPECT_EQ(to_string(TrackerKind::kProcessWriteProtect), "process-write-protect");
  class Nothing final : public PageSource {
    Result<std::vector<Region>> regions() override { return std::vector<Region>{}; }
    Result<ReadOutcome> read(const RegionId&, PageRange, std::span<std::byte>) override {
      return ReadOutcome::kGone;
    }
    std::span<const std::byte> mapped(const RegionId&) override { return {}; }
    Status holes(const RegionId&, PageBitmap&) override { return {}; }
  } nothing;
  EXPECT_EQ(make_content_hash_tracking(nothing).tracker->name(),
            to_string(TrackerKind::kContentHash));
}

}  // namespace
}  // namespace migrate
