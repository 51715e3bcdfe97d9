// The KVM bitmap tracker on a real guest: whatever the guest writes and whenever, a copy kept up by
// collect, re-arm and read is its memory in the end.
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <chrono>
#include <cstring>

#include "tests/dirtylog/guest_copy.hpp"
#include "tests/kvm/tiny_guest.hpp"

namespace migrate {

static void PrintTo(const KvmLogMode& mode, std::ostream* out) {
  *out << (mode == KvmLogMode::kPlain ? "plain" : "manual");
}

namespace {

using testing::GuestCopy;
using testing::TinyGuest;
using testing::TinyGuestOptions;

constexpr std::uint64_t kChunk = 256;

PageRange chunk_at(const Region& region, std::uint64_t first) {
  return {region.range.first + first, std::min(kChunk, region.range.count - first)};
}

/// Re-arms chunk by chunk and reads each chunk's pages right after it.
void rearm_and_read(DirtyTracker& tracker, const TinyGuest& guest, const PageBitmap& set,
                    GuestCopy& copy) {
  for (const Region& region : guest.regions()) {
    for (std::uint64_t first = 0; first < region.range.count; first += kChunk) {
      const PageRange chunk = chunk_at(region, first);
      ASSERT_TRUE(tracker.rearm(set, region.id, chunk));
      const PageBitmap::Segment& segment = *set.find(region.id);
      for (PageRange run = next_run(segment, chunk.first, chunk.end()); !run.empty();
           run = next_run(segment, run.end(), chunk.end())) {
        copy.read_run(run);
      }
    }
  }
}

PageBitmap collected(DirtyTracker& tracker, const TinyGuest& guest) {
  PageBitmap set(guest.regions());
  EXPECT_TRUE(tracker.collect(set));
  return set;
}

PageBitmap peeked(DirtyTracker& tracker, const TinyGuest& guest) {
  PageBitmap set(guest.regions());
  EXPECT_TRUE(tracker.peek(set));
  return set;
}

void rearm_all(DirtyTracker& tracker, const TinyGuest& guest, const PageBitmap& set) {
  for (const Region& region : guest.regions()) {
    ASSERT_TRUE(tracker.rearm(set, region.id, region.range));
  }
}

TinyGuestOptions two_slots() {
  TinyGuestOptions options;
  // Not multiples of 64, and the sweep crosses from one slot into the other.
  options.slot_pages = {2100, 1999};
  options.sweep_first = 1024;
  options.sweep_pages = 3000;
  return options;
}

class KvmBitmap : public ::testing::TestWithParam<KvmLogMode> {
 protected:
  void SetUp() override { MIGRATE_NEEDS_KVM(); }
  std::unique_ptr<DirtyTracker> tracker_for(const TinyGuest& guest) const {
    auto tracker = make_kvm_bitmap_tracker(guest.vm().vm_fd, guest.slots(), GetParam());
    EXPECT_TRUE(tracker) << tracker.error().to_text();
    return tracker ? *std::move(tracker) : nullptr;
  }
  [[nodiscard]] bool plain() const { return GetParam() == KvmLogMode::kPlain; }
};

INSTANTIATE_TEST_SUITE_P(Modes, KvmBitmap,
                         ::testing::Values(KvmLogMode::kManual, KvmLogMode::kPlain),
                         [](const auto& mode) {
                           return mode.param == KvmLogMode::kPlain ? "Plain" : "Manual";
                         });

void run_rounds(DirtyTracker& tracker, TinyGuest& guest, GuestCopy& copy, int rounds) {
  PageBitmap everything(guest.regions());
  everything.set_all();
  ASSERT_TRUE(tracker.start());
  guest.resume();
  // Round 0 is everything, whatever the tracker reports of it.
  PageBitmap set = collected(tracker, guest);
  set.merge(everything);
  // Until the guest has written all its pages a few times beside the rounds.
  const std::uint64_t enough = 3 * guest.options().sweep_pages;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  std::uint64_t written = 0;
  for (int round = 0; round < rounds || written < enough; ++round) {
    rearm_and_read(tracker, guest, set, copy);
    // Peeks in between must take nothing away.
    if (round % 3 == 0) (void)peeked(tracker, guest);
    set = collected(tracker, guest);
    written += set.count();
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "the guest does not write";
  }
  rearm_and_read(tracker, guest, set, copy);
  guest.pause();
  copy.read(collected(tracker, guest));
}

TEST_P(KvmBitmap, CopyEqualsMemoryAfterManyRoundsBesideAWriterAtFullSpeed) {
  TinyGuest guest;
  const auto tracker = tracker_for(guest);
  GuestCopy copy(guest);
  run_rounds(*tracker, guest, copy, 40);
  EXPECT_EQ(copy.pages_that_differ(), 0U);
  EXPECT_TRUE(tracker->stop());
}

TEST_P(KvmBitmap, CopyEqualsMemoryOfTwoSlotsAndTwoVcpus) {
  TinyGuestOptions options = two_slots();
  options.vcpus = 2;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  GuestCopy copy(guest);
  run_rounds(*tracker, guest, copy, 25);
  EXPECT_EQ(copy.pages_that_differ(), 0U);
}

// The mutation that the tests above must be able to see: reading first and re-arming afterwards
// loses what is written in between.
TEST_P(KvmBitmap, ReadingBeforeRearmingLosesPagesAndTheCopyShowsIt) {
  TinyGuestOptions options;
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  GuestCopy copy(guest);
  ASSERT_TRUE(tracker->start());
  guest.sweep(1);
  PageBitmap everything(guest.regions());
  everything.set_all();
  copy.read(everything);
  const PageBitmap set = collected(*tracker, guest);
  if (!plain()) {
    copy.read(set);
    guest.sweep(1);
    rearm_all(*tracker, guest, set);
    copy.read(collected(*tracker, guest));
    EXPECT_GE(copy.pages_that_differ(), options.sweep_pages);
  } else {
    // A plain log re-arms while it is read: the same mistake is to read before collecting.
    guest.sweep(1);
    (void)collected(*tracker, guest);
    EXPECT_GE(copy.pages_that_differ(), options.sweep_pages);
  }
  // In the right order nothing is lost.
  guest.sweep(1);
  const PageBitmap next = collected(*tracker, guest);
  rearm_all(*tracker, guest, next);
  copy.read(next);
  EXPECT_EQ(copy.pages_that_differ(), 0U);
}

TEST_P(KvmBitmap, ReportsExactlyTheSweptPages) {
  TinyGuestOptions options = two_slots();
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  guest.sweep(1);
  rearm_all(*tracker, guest, collected(*tracker, guest));
  guest.sweep(1);
  const PageBitmap set = collected(*tracker, guest);
  // Beyond the sweep KVM may write pages of its own accord (accessed bits of page tables).
  EXPECT_GE(set.count(), options.sweep_pages);
  EXPECT_LE(set.count(), options.sweep_pages + 8);
  for (std::uint64_t page = 1024; page < 1024 + 3000; ++page) {
    const RegionId region = guest.regions()[page < 2100 ? 0 : 1].id;
    ASSERT_TRUE(set.test(region, {page})) << "page " << page;
  }
}

TEST_P(KvmBitmap, CollectsNothingWhenNothingWasWritten) {
  TinyGuestOptions options;
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  guest.sweep(1);
  rearm_all(*tracker, guest, collected(*tracker, guest));
  EXPECT_TRUE(collected(*tracker, guest).empty());
  EXPECT_TRUE(peeked(*tracker, guest).empty());
}

TEST_P(KvmBitmap, PeekShowsRewrittenPagesAndTakesNone) {
  TinyGuestOptions options;
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  guest.sweep(1);
  rearm_all(*tracker, guest, collected(*tracker, guest));
  EXPECT_TRUE(peeked(*tracker, guest).empty());
  guest.sweep(1);
  const PageBitmap first = peeked(*tracker, guest);
  EXPECT_GE(first.count(), options.sweep_pages);
  EXPECT_EQ(peeked(*tracker, guest).count(), first.count());
  EXPECT_EQ(collected(*tracker, guest).count(), first.count());
}

TEST_P(KvmBitmap, KeepsRegionsTheSetDoesNotHave) {
  TinyGuestOptions options = two_slots();
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  rearm_all(*tracker, guest, collected(*tracker, guest));
  guest.sweep(1);
  const std::vector<Region> regions = guest.regions();
  PageBitmap first_only(std::span<const Region>(regions).first(1));
  ASSERT_TRUE(tracker->collect(first_only));
  EXPECT_GE(first_only.count(), 2100U - 1024U);
  PageBitmap second_only(std::span<const Region>(regions).last(1));
  ASSERT_TRUE(tracker->collect(second_only));
  EXPECT_GE(second_only.count(), 3000U - (2100U - 1024U));
}

/// Sets or removes the log flag of a slot behind the tracker's back.
void set_log_flag(const TinyGuest& guest, const KvmMemorySlot& slot, bool on) {
  kvm_userspace_memory_region region{};
  region.slot = slot.slot;
  region.flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0U;
  region.guest_phys_addr = slot.guest_address.value;
  region.memory_size = slot.bytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(slot.host);
  ASSERT_EQ(::ioctl(guest.vm().vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
}

// The first slot's log has been read when the second's cannot be. Nobody got those pages, so not
// even a caller that re-arms everything may make KVM forget them.
TEST_P(KvmBitmap, AFailedCollectLosesNothing) {
  TinyGuestOptions options = two_slots();
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  rearm_all(*tracker, guest, collected(*tracker, guest));
  guest.sweep(1);
  set_log_flag(guest, guest.slots().back(), false);
  PageBitmap set(guest.regions());
  EXPECT_FALSE(tracker->collect(set));
  EXPECT_TRUE(set.empty());
  set.set_all();
  rearm_all(*tracker, guest, set);
  set_log_flag(guest, guest.slots().back(), true);
  const Region first = guest.regions().front();
  const PageBitmap again = collected(*tracker, guest);
  for (std::uint64_t page = options.sweep_first; page < first.range.count; ++page) {
    ASSERT_TRUE(again.test(first.id, {page})) << "page " << page;
  }
}

TEST_P(KvmBitmap, StartsAgainAfterStopAndInTheOtherMode) {
  TinyGuestOptions options;
  options.gated = true;
  TinyGuest guest(options);
  for (const KvmLogMode mode : {GetParam(), KvmLogMode::kPlain, GetParam(), KvmLogMode::kManual}) {
    auto tracker = make_kvm_bitmap_tracker(guest.vm().vm_fd, guest.slots(), mode);
    ASSERT_TRUE(tracker);
    EXPECT_TRUE((*tracker)->stop()) << "harmless before start";
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE((*tracker)->start());
      EXPECT_FALSE((*tracker)->start()) << "runs already";
      rearm_all(**tracker, guest, collected(**tracker, guest));
      guest.sweep(1);
      EXPECT_GE(collected(**tracker, guest).count(), options.sweep_pages);
      ASSERT_TRUE((*tracker)->stop());
    }
  }
}

TEST_P(KvmBitmap, CoversWritesOfTheGuestAndOfKvmAndNoOthers) {
  TinyGuest guest;
  const auto tracker = tracker_for(guest);
  EXPECT_TRUE(tracker->covers().guest_cpu && tracker->covers().kvm);
  EXPECT_FALSE(tracker->covers().vmm || tracker->covers().kernel || tracker->covers().pinned);
  EXPECT_EQ(tracker->rearms_in_collect(), plain());
}

class ManualKvmBitmap : public ::testing::Test {
 protected:
  void SetUp() override { MIGRATE_NEEDS_KVM(); }
  static std::unique_ptr<DirtyTracker> tracker_for(const TinyGuest& guest) {
    auto tracker = make_kvm_bitmap_tracker(guest.vm().vm_fd, guest.slots(), KvmLogMode::kManual);
    EXPECT_TRUE(tracker);
    return *std::move(tracker);
  }
};

// A page written after the collect is not in its set. Clearing its bit, though the caller asks for
// it, would lose it.
TEST_F(ManualKvmBitmap, NeverClearsBitsThatWereNotInTheLatestCollect) {
  TinyGuestOptions options;
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  rearm_all(*tracker, guest, collected(*tracker, guest));
  const PageBitmap nothing = collected(*tracker, guest);
  EXPECT_TRUE(nothing.empty());
  guest.sweep(1);
  PageBitmap everything(guest.regions());
  everything.set_all();
  rearm_all(*tracker, guest, everything);
  EXPECT_GE(collected(*tracker, guest).count(), options.sweep_pages);
}

TEST_F(ManualKvmBitmap, RearmsThePagesOfTheSetAndNotTheirNeighbours) {
  TinyGuestOptions options;
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  rearm_all(*tracker, guest, collected(*tracker, guest));
  guest.sweep(1);
  PageBitmap even = collected(*tracker, guest);
  const RegionId region = guest.regions().front().id;
  for (std::uint64_t page = 1; page < guest.pages(); page += 2) {
    even.clear(region, PageRange{{page}, 1});
  }
  rearm_all(*tracker, guest, even);
  const PageBitmap left = collected(*tracker, guest);
  for (std::uint64_t page = 0; page < options.sweep_pages; ++page) {
    const GuestPage swept{options.sweep_first + page};
    ASSERT_EQ(left.test(region, swept), swept.number % 2 == 1) << "page " << swept.number;
  }
}

TEST_F(ManualKvmBitmap, RearmsAPageOnceACollect) {
  TinyGuestOptions options;
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  guest.sweep(1);
  const PageBitmap set = collected(*tracker, guest);
  rearm_all(*tracker, guest, set);
  guest.sweep(1);
  rearm_all(*tracker, guest, set);
  EXPECT_GE(collected(*tracker, guest).count(), options.sweep_pages);
}

TEST_F(ManualKvmBitmap, PeekLeavesOutPagesNotRearmedYet) {
  TinyGuestOptions options;
  options.gated = true;
  TinyGuest guest(options);
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  guest.sweep(1);
  const PageBitmap set = collected(*tracker, guest);
  const Region region = guest.regions().front();
  const PageRange first_half{region.range.first, 2048};
  ASSERT_TRUE(tracker->rearm(set, region.id, first_half));
  guest.sweep(1);
  const PageBitmap again = peeked(*tracker, guest);
  again.for_each_run([&](const RegionId&, PageRange run) {
    EXPECT_TRUE(first_half.contains(run)) << run.first.number;
  });
  EXPECT_GE(again.count(), 2048U - options.sweep_first);
}

// With KVM_DIRTY_LOG_INITIALLY_SET every page is dirty after start(); holes must be clearable or
// they come back in each round.
TEST_F(ManualKvmBitmap, HolesAreClearedByRearmingThem) {
  TinyGuest guest;
  const auto tracker = tracker_for(guest);
  ASSERT_TRUE(tracker->start());
  const PageBitmap first = collected(*tracker, guest);
  PageBitmap everything(guest.regions());
  everything.set_all();
  rearm_all(*tracker, guest, everything);
  EXPECT_TRUE(collected(*tracker, guest).empty());
  const bool initially_set =
      (::ioctl(guest.vm().vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
       KVM_DIRTY_LOG_INITIALLY_SET) != 0;
  EXPECT_EQ(first.count(), initially_set ? guest.pages() : 0U);
}

TEST_F(ManualKvmBitmap, JoinedWithMarksSeesTheWritesOfTheVmmToo) {
  TinyGuestOptions options;
  options.gated = true;
  TinyGuest guest(options);
  const auto marks = make_software_bitmap(guest.regions());
  const auto tracker = make_composite_tracker({tracker_for(guest), marks});
  GuestCopy copy(guest);
  ASSERT_TRUE(tracker->start());
  const PageBitmap set = collected(*tracker, guest);
  rearm_and_read(*tracker, guest, set, copy);
  guest.sweep(1);
  std::memset(guest.page(9), 0x5a, kPageSize);
  marks->mark(GuestAddr{9 * kPageSize}, kPageSize);
  const PageBitmap next = collected(*tracker, guest);
  rearm_and_read(*tracker, guest, next, copy);
  EXPECT_TRUE(next.test(guest.regions().front().id, {9}));
  EXPECT_EQ(copy.pages_that_differ(), 0U);
}

TEST_F(ManualKvmBitmap, RefusesSlotsItCannotTrack) {
  TinyGuest guest;
  const int vm = guest.vm().vm_fd;
  std::vector<KvmMemorySlot> slots(guest.slots().begin(), guest.slots().end());
  slots.push_back(slots.front());
  EXPECT_FALSE(make_kvm_bitmap_tracker(vm, slots));
  slots.pop_back();
  slots.front().bytes -= 1;
  EXPECT_FALSE(make_kvm_bitmap_tracker(vm, slots));
  // A slot that the VM does not have is found when tracking starts, and nothing stays behind.
  slots.front() = guest.slots().front();
  KvmMemorySlot wrong = slots.front();
  wrong.slot = 7;
  slots.push_back(wrong);
  auto tracker = make_kvm_bitmap_tracker(vm, slots);
  ASSERT_TRUE(tracker);
  EXPECT_FALSE((*tracker)->start());
  EXPECT_TRUE(tracker_for(guest)->start());
}

}  // namespace
}  // namespace migrate
