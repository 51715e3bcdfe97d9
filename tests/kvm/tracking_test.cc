// Which tracker the adapter makes for a VM, and what it says to impossible wishes.
#include "adapters/kvm/tracking.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/kvm/tiny_guest_hooks.hpp"

namespace migrate {
namespace {

using testing::TinyGuest;
using testing::TinyGuestOptions;
using testing::TinySourceHooks;

TinyGuestOptions gated(bool ring) {
  TinyGuestOptions options;
  options.gated = true;
  if (ring) options.ring_entries = KvmDirtyRing::kEntriesMin;
  return options;
}

class KvmTracking : public ::testing::Test {
 protected:
  void SetUp() override { MIGRATE_NEEDS_KVM(); }

  static bool offered(const TinyGuest& guest, TrackerKind kind, std::string& why) {
    for (const TrackerOffer& offer : probe_trackers(guest.vm().kvm_fd)) {
      if (offer.kind != kind) continue;
      why = offer.detail;
      return offer.available;
    }
    return false;
  }
  static Result<std::unique_ptr<SourceGuest>> source(TinyGuest& guest, TinySourceHooks& hooks,
                                                     std::optional<TrackerKind> kind) {
    KvmSourceOptions options;
    options.tracking = kind;
    return make_kvm_source(guest.vm(), hooks, std::move(options));
  }
};

TEST_F(KvmTracking, TheBestForAVmIsItsRingOrElseItsBitmap) {
  for (const bool ring : {false, true}) {
    TinyGuest plain(gated(false));
    std::string why;
    if (ring && !offered(plain, TrackerKind::kKvmRing, why)) GTEST_SKIP() << why;
    TinyGuest guest(gated(ring));
    TinySourceHooks hooks(guest);
    const auto made = source(guest, hooks, std::nullopt);
    ASSERT_TRUE(made) << made.error().to_text();
    EXPECT_EQ((*made)->tracker().name(), ring ? "kvm-ring" : "kvm-bitmap");
  }
}

TEST_F(KvmTracking, ImpossibleChoicesAreRefusedWithThosePossible) {
  TinyGuest plain(gated(false));
  TinySourceHooks hooks(plain);
  for (const TrackerKind kind :
       {TrackerKind::kKvmRing, TrackerKind::kProcessWriteProtect, TrackerKind::kSoftDirty}) {
    const auto refused = source(plain, hooks, kind);
    ASSERT_FALSE(refused) << to_string(kind);
    EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
    EXPECT_NE(refused.error().message.find(to_string(kind)), std::string::npos);
    EXPECT_NE(refused.error().remedy.find("kvm-bitmap"), std::string::npos);
    EXPECT_EQ(refused.error().remedy.find("kvm-ring"), std::string::npos);
  }
  std::string why;
  if (!offered(plain, TrackerKind::kKvmRing, why)) GTEST_SKIP() << why;
  TinyGuest ringed(gated(true));
  TinySourceHooks ringed_hooks(ringed);
  const auto refused = source(ringed, ringed_hooks, TrackerKind::kKvmBitmap);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(refused.error().remedy.find("kvm-ring"), std::string::npos);
  EXPECT_EQ(refused.error().remedy.find("kvm-bitmap"), std::string::npos);
}

/// Reads the pages of `set` as the engine does.
void read_pages(SourceGuest& source, const PageBitmap& set, std::vector<std::byte>& copy) {
  set.for_each_run([&](const RegionId& region, PageRange run) {
    const std::span<std::byte> into(copy.data() + run.first.number * kPageSize, run.bytes());
    const auto read = source.pages().read(region, run, into);
    ASSERT_TRUE(read) << read.error().to_text();
  });
}

TEST_F(KvmTracking, EachKindKeepsACopyEqualThroughTheSourcesOwnPages) {
  for (const TrackerKind kind : {TrackerKind::kKvmBitmap, TrackerKind::kKvmRing,
                                 TrackerKind::kWriteProtect, TrackerKind::kContentHash}) {
    SCOPED_TRACE(to_string(kind));
    TinyGuest plain(gated(false));
    std::string why;
    if (!offered(plain, kind, why)) continue;
    TinyGuest guest(gated(kind == TrackerKind::kKvmRing));
    TinySourceHooks hooks(guest);
    const auto made = source(guest, hooks, kind);
    ASSERT_TRUE(made) << made.error().to_text();
    DirtyTracker& tracker = (*made)->tracker();
    EXPECT_EQ(tracker.name(), to_string(kind));
    std::vector<std::byte> copy(guest.pages() * kPageSize);
    const Region region = guest.regions().front();

    ASSERT_TRUE(tracker.start());
    PageBitmap set(guest.regions());
    ASSERT_TRUE(tracker.collect(set));
    set.set_all();
    ASSERT_TRUE(tracker.rearm(set, region.id, region.range));
    read_pages(**made, set, copy);
    for (int round = 0; round < 3; ++round) {
      guest.sweep(1);
      set.clear_all();
      ASSERT_TRUE(tracker.collect(set));
      EXPECT_GE(set.count(), guest.options().sweep_pages);
      ASSERT_TRUE(tracker.rearm(set, region.id, region.range));
      read_pages(**made, set, copy);
    }
    EXPECT_EQ(std::memcmp(copy.data(), guest.page(0), copy.size()), 0);
    EXPECT_TRUE(tracker.stop());
  }
}

TEST_F(KvmTracking, MarksOfTheVmmJoinAnyKind) {
  for (const TrackerKind kind : {TrackerKind::kKvmBitmap, TrackerKind::kContentHash}) {
    TinyGuest guest(gated(false));
    TinySourceHooks hooks(guest);
    KvmSourceOptions options;
    options.tracking = kind;
    options.vmm_writes = make_software_bitmap(guest.regions());
    const auto marks = options.vmm_writes;
    const auto made = make_kvm_source(guest.vm(), hooks, std::move(options));
    ASSERT_TRUE(made) << made.error().to_text();
    DirtyTracker& tracker = (*made)->tracker();
    EXPECT_EQ(tracker.name(), to_string(kind));
    ASSERT_TRUE(tracker.start());
    marks->mark(GuestAddr{9 * kPageSize}, kPageSize);
    PageBitmap set(guest.regions());
    ASSERT_TRUE(tracker.collect(set));
    EXPECT_TRUE(set.test(guest.regions().front().id, {9}));
  }
}

}  // namespace
}  // namespace migrate
