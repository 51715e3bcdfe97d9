// Memory as it was at one instant while threads write it: of every kind, on full pools, and in
// whatever way it ends.
#include "checkpoint/live_memory.hpp"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "memory/uffd_abi.hpp"
#include "tests/checkpoint/live_bed.hpp"

namespace migrate::checkpoint {
namespace {

using migrate::testing::HugePages;
using test::RamKind;
using ::testing::HasSubstr;

class LiveMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if ((probe_userfault().features & abi::kUffdSnapshot) != abi::kUffdSnapshot) {
      GTEST_SKIP() << "userfaultfd has no write protection of all memory here (Linux 6.4)";
    }
  }
};

class LiveMemoryOf : public LiveMemoryTest, public ::testing::WithParamInterface<RamKind> {};

TEST_P(LiveMemoryOf, TheImageIsMemoryAtTheInstantWhateverIsWrittenBeforeAndAfter) {
  constexpr std::uint64_t kPages = 16384;
  std::optional<HugePages> huge;
  if (test::is_hugetlb(GetParam())) {
    huge.emplace(kPages * kPageSize / test::GuestRam::kHugeBytes);
    if (!huge->why_not().empty()) GTEST_SKIP() << huge->why_not();
  }
  LiveBed bed(GetParam(), kPages);
  ASSERT_TRUE(bed.ram().valid());
  bed.fill();
  Writers writers(bed.memory(), 2);
  for (int round = 0; round < 3; ++round) {
    writers.wait_for(100);
    const auto live = bed.live();
    ASSERT_TRUE(live);
    ASSERT_TRUE(live->arm(bed.all()));
    writers.wait_for(100);
    ASSERT_TRUE(live->arm_written());
    writers.wait_for(10);
    writers.pause();
    // What saves the device state writes, too.
    std::memset(bed.ram().page(7).data(), round, kPageSize);
    const auto at_the_instant = bed.copy();
    ASSERT_TRUE(live->freeze(bed.none()));
    writers.run_on();
    writers.wait_for(100);
    ASSERT_TRUE(bed.save(*live, bed.add()));
    live->close();
    EXPECT_EQ(bed.first_difference(at_the_instant), kPages);
    EXPECT_EQ(live->saved(), kPages);
    EXPECT_GT(live->figures().copied, 0u);
    EXPECT_GT(live->figures().times.count(), 0u);
    // All may write everywhere again.
    writers.wait_for(1000);
  }
  for (std::uint64_t page = 0; page < kPages; ++page) EXPECT_EQ(bed.added(page), 3u);
}

INSTANTIATE_TEST_SUITE_P(All, LiveMemoryOf,
                         ::testing::Values(RamKind::kAnonymous, RamKind::kTransparentHuge,
                                           RamKind::kMemfd, RamKind::kHugetlb,
                                           RamKind::kHugetlbMemfd),
                         [](const auto& kind) { return test::name_of(kind.param); });

TEST_F(LiveMemoryTest, WritesWaitForRoomAndNoneIsLost) {
  LiveBed bed(RamKind::kMemfd, 1024);
  bed.fill();
  const auto live = bed.live({.pages_together = 4, .copies_bytes = 4 * kPageSize});
  ASSERT_TRUE(live);
  ASSERT_TRUE(live->arm(bed.all()));
  const auto at_the_instant = bed.copy();
  ASSERT_TRUE(live->freeze(bed.none()));
  // There is room for one copy, which nobody takes yet.
  std::atomic<std::uint64_t> written{0};
  std::thread guest([&] {
    for (std::uint64_t page = bed.pages(); page-- > 0; ++written) {
      std::memset(bed.ram().page(page).data(), 0xEE, kPageSize);
    }
  });
  while (written < 4) std::this_thread::yield();
  EXPECT_TRUE(bed.save(*live, bed.add()));
  guest.join();
  live->close();
  EXPECT_EQ(bed.first_difference(at_the_instant), bed.pages());
  for (std::uint64_t page = 0; page < bed.pages(); ++page) EXPECT_EQ(bed.added(page), 1u);
}

TEST_F(LiveMemoryTest, WhoWaitsForRoomGoesOnWhenItIsGivenUp) {
  LiveBed bed(RamKind::kAnonymous, 256);
  bed.fill();
  const auto live = bed.live({.pages_together = 1, .copies_bytes = kPageSize});
  ASSERT_TRUE(live);
  ASSERT_TRUE(live->arm(bed.all()));
  ASSERT_TRUE(live->freeze(bed.none()));
  std::atomic<std::uint64_t> written{0};
  std::thread guest([&] {
    for (std::uint64_t page = 0; page < bed.pages(); ++page, ++written) {
      std::memset(bed.ram().page(page).data(), 0xEE, kPageSize);
    }
  });
  while (written < 1) std::this_thread::yield();
  live->fail(make_error(ErrorCode::kCancelled, "cancelled by the test"));
  guest.join();
  const Status saved = live->save(bed.add());
  ASSERT_FALSE(saved);
  EXPECT_EQ(saved.error().code, ErrorCode::kCancelled);
  live->close();
}

TEST_F(LiveMemoryTest, AnImageThatCannotBeWrittenEndsItEverywhereAndTheGuestGoesOn) {
  LiveBed bed(RamKind::kMemfd, 4096);
  bed.fill();
  Writers writers(bed.memory(), 2);
  for (const unsigned fails_at : {1u, 100u, 3000u}) {
    const auto live = bed.live();
    ASSERT_TRUE(live);
    ASSERT_TRUE(live->arm(bed.all()));
    writers.pause();
    ASSERT_TRUE(live->freeze(bed.none()));
    writers.run_on();
    std::atomic<unsigned> calls{0};
    const Status saved = bed.save(*live, [&](auto, auto, auto) -> Status {
      if (++calls < fails_at) return {};
      Error error = make_error(ErrorCode::kIo, "the disk is full, says the test");
      live->fail(error);
      return error;
    });
    ASSERT_FALSE(saved);
    EXPECT_EQ(saved.error().code, ErrorCode::kIo);
    writers.wait_for(1000);
    live->close();
    writers.wait_for(1000);
  }
}

TEST_F(LiveMemoryTest, GivenUpBeforeTheInstantItLeavesNothingProtected) {
  LiveBed bed(RamKind::kAnonymous, 1024);
  Writers writers(bed.memory(), 1);
  const auto live = bed.live();
  ASSERT_TRUE(live);
  ASSERT_TRUE(live->arm(bed.all()));
  live->close();
  writers.wait_for(5000);
  EXPECT_TRUE(bed.live());
}

TEST_F(LiveMemoryTest, HolesStayHolesAndAreSavedOnlyIfTheyWereWrittenBeforeTheInstant) {
  LiveBed bed(RamKind::kMemfd, 1024);
  for (std::uint64_t page = 0; page < 256; ++page) bed.ram().page(page)[0] = std::byte{1};
  const auto live = bed.live({.pages_together = 1});
  ASSERT_TRUE(live);
  ASSERT_TRUE(live->arm(bed.all()));
  bed.ram().page(500)[0] = std::byte{2};
  PageBitmap holes = bed.none();
  holes.set(LiveBed::kId, bed.range(256, 768));
  // As if it had been written only after somebody has looked.
  live->leave_out(holes);
  bed.ram().page(600)[0] = std::byte{3};
  ASSERT_TRUE(live->arm_written());
  bed.ram().page(700)[0] = std::byte{4};
  ASSERT_TRUE(live->freeze(bed.none()));
  bed.ram().page(800)[0] = std::byte{5};
  bed.ram().page(500)[0] = std::byte{6};
  ASSERT_TRUE(bed.save(*live, bed.add()));
  live->close();
  EXPECT_EQ(live->saved(), 256u + 3);
  EXPECT_EQ(live->pages().count(), 256u + 3);
  for (const std::uint64_t page : {500, 600, 700}) EXPECT_EQ(bed.added(page), 1u) << page;
  EXPECT_EQ(bed.added(800), 0u);
  // Nobody has read one: that would have made it a page.
  unsigned there = 0;
  std::vector<unsigned char> core(bed.pages());
  ASSERT_EQ(::mincore(bed.memory().data(), bed.memory().size(), core.data()), 0);
  for (const unsigned char one : core) there += one & 1;
  EXPECT_EQ(there, 256u + 4);
}

TEST_F(LiveMemoryTest, WhatIsNotWantedIsNeitherSavedNorHeldBack) {
  LiveBed bed(RamKind::kAnonymous, 1024);
  bed.fill();
  const auto live = bed.live({.pages_together = 8, .copies_bytes = 8 * kPageSize});
  ASSERT_TRUE(live);
  PageBitmap some = bed.none();
  some.set(LiveBed::kId, bed.range(100, 3));
  ASSERT_TRUE(live->arm(some));
  PageBitmap more = bed.none();
  more.set(LiveBed::kId, bed.range(900, 1));
  const auto at_the_instant = bed.copy();
  ASSERT_TRUE(live->freeze(more));
  // Beside the one copy that there is room for, no write needs any.
  std::memset(bed.memory().data() + 150 * kPageSize, 0xEE, bed.memory().size() - 150 * kPageSize);
  std::memset(bed.memory().data(), 0xEE, 90 * kPageSize);
  ASSERT_TRUE(bed.save(*live, bed.add()));
  live->close();
  EXPECT_EQ(live->saved(), 4u);
  EXPECT_EQ(live->figures().copied, 1u);
  for (const std::uint64_t page : {100, 101, 102, 900}) {
    ASSERT_EQ(bed.added(page), 1u);
    EXPECT_TRUE(bed.same(page, at_the_instant)) << page;
  }
}

TEST_F(LiveMemoryTest, TheKernelsWritesForThisProcessWaitToo) {
  LiveBed bed(RamKind::kMemfd, 64);
  bed.fill();
  const auto live = bed.live();
  ASSERT_TRUE(live);
  ASSERT_TRUE(live->arm(bed.all()));
  const auto at_the_instant = bed.copy();
  ASSERT_TRUE(live->freeze(bed.none()));
  const Fd zeros(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::read(zeros.get(), bed.memory().data(), 8 * kPageSize),
            static_cast<ssize_t>(8 * kPageSize));
  ASSERT_TRUE(bed.save(*live, bed.add()));
  live->close();
  EXPECT_EQ(bed.first_difference(at_the_instant), bed.pages());
}

TEST_F(LiveMemoryTest, MemoryWithAnotherOwnerIsBusyWithAWayOut) {
  LiveBed bed(RamKind::kMemfd, 64);
  const std::vector<MappedRegion> regions{bed.mapped()};
  auto tracker = make_write_protect_tracker(regions);
  ASSERT_TRUE(tracker);
  if (Status started = (*tracker)->start(); !started) GTEST_SKIP() << started.error().to_text();
  const auto refused = LiveMemory::create(regions);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  EXPECT_THAT(refused.error().remedy, HasSubstr("without --live"));
  EXPECT_THAT(refused.error().remedy, HasSubstr("--tracker log"));
  ASSERT_TRUE((*tracker)->stop());
  EXPECT_TRUE(bed.live());
}

TEST_F(LiveMemoryTest, MemoryThatCannotBeProtectedIsRefusedWithAWayOut) {
  void* const memory = ::mmap(nullptr, 8 * kPageSize, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const Fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  ASSERT_NE(::mmap(memory, kPageSize, PROT_READ, MAP_PRIVATE | MAP_FIXED, file.get(), 0),
            MAP_FAILED);
  const std::vector<MappedRegion> regions{{{{0, 0, 0}, {{0}, 8}}, static_cast<std::byte*>(memory)}};
  const auto refused = LiveMemory::create(regions);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported) << refused.error().to_text();
  EXPECT_THAT(refused.error().remedy, HasSubstr("without --live"));
  ::munmap(memory, 8 * kPageSize);
}

}  // namespace
}  // namespace migrate::checkpoint
