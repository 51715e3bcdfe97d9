// A guest that runs while its memory comes: who waits, who is served, and what the link's end does.
#include "postcopy/lazy_target.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "memory/userfault.hpp"
#include "tests/postcopy/lazy_bed.hpp"

namespace migrate::test {
namespace {

constexpr std::uint64_t kPages = 1024;

std::uint64_t count_of(const std::vector<wire::Demand::Pages>& pages) {
  std::uint64_t count = 0;
  for (const auto& one : pages) count += one.count;
  return count;
}

TEST(LazyTarget, NothingIsMissingUntilItIsSaidToBe) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  EXPECT_TRUE(bed.target().complete());
  bed.miss(3, 5);
  bed.miss(4, 6);
  EXPECT_FALSE(bed.target().complete());
  EXPECT_EQ(bed.target().missing_pages(), 7u);
  EXPECT_EQ(bed.target().missing().count(), 7u);
  EXPECT_TRUE(bed.target().missing().test(bed.region().id, {kFirstPage + 3}));
  EXPECT_FALSE(bed.target().missing().test(bed.region().id, {kFirstPage + 2}));
}

TEST(LazyTarget, InstalledPagesAreToldOnce) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  ASSERT_TRUE(bed.send(*link.bulk, 10, 20));
  ASSERT_TRUE(becomes_true([&] { return bed.target().missing_pages() == kPages - 20; }));
  const PageBitmap installed = bed.target().take_installed();
  EXPECT_EQ(installed.count(), 20u);
  EXPECT_TRUE(installed.test(bed.region().id, {kFirstPage + 10}));
  EXPECT_TRUE(bed.target().take_installed().empty());
  EXPECT_EQ(bed.target().missing().count(), kPages - 20);
  EXPECT_FALSE(bed.target().missing().test(bed.region().id, {kFirstPage + 29}));
}

TEST(LazyTarget, ThreadsThatWaitForOnePageDemandItOnceAndAllGoOn) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  bed.target().guest_may_wait();
  constexpr int kThreads = 6;
  std::atomic<int> right{0};
  std::atomic<int> begun{0};
  for (int i = 0; i < kThreads; ++i) {
    bed.run_guest([&] {
      ++begun;
      right += bed.page_is_right(7) ? 1 : 0;
    });
  }
  const auto wanted = bed.demanded(link);
  ASSERT_TRUE(wanted);
  EXPECT_THAT(*wanted, ::testing::ElementsAre(wire::Demand::Pages{kLazyHandle, 7, 1}));
  ASSERT_TRUE(becomes_true([&] { return begun == kThreads; }));
  // Another page is demanded next, so there was no second demand for the first.
  std::atomic<bool> other{false};
  bed.run_guest([&] { other = bed.page_is_right(9); });
  const auto next = bed.demanded(link);
  ASSERT_TRUE(next);
  EXPECT_THAT(*next, ::testing::ElementsAre(wire::Demand::Pages{kLazyHandle, 9, 1}));
  ASSERT_TRUE(bed.send(*link.urgent, 7, 1));
  ASSERT_TRUE(bed.send(*link.urgent, 9, 1));
  bed.join_guests();
  EXPECT_EQ(right, kThreads);
  EXPECT_TRUE(other);
  // A page is counted once it is in place.
  EXPECT_TRUE(becomes_true([&] { return bed.target().figures().arrived == 2; }));
}

// A balloon: the guest has said that it needs the page no more, and the host has taken it.
TEST(LazyTarget, APageThatIsGivenAwayOnceItWasHereReadsAsZero) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss(7, 2);
  SourceLink link = bed.attach();
  bed.target().guest_may_wait();
  ASSERT_TRUE(bed.send(*link.bulk, 7, 1));
  ASSERT_TRUE(becomes_true([&] { return bed.target().missing_pages() == 1; }));
  ASSERT_EQ(::madvise(bed.ram().page(7).data(), kPageSize, MADV_DONTNEED), 0);
  int seen = -1;
  bed.run_guest([&] { seen = bed.touch(7); });
  bed.join_guests();
  EXPECT_EQ(seen, 0);
  ASSERT_TRUE(bed.send(*link.bulk, 7, 1));  // Too late: it is the guest's own now.
  ASSERT_TRUE(bed.send(*link.bulk, 8, 1));
  EXPECT_TRUE(becomes_true([&] { return bed.target().complete(); }));
  EXPECT_EQ(bed.touch(7), 0);
}

TEST(LazyTarget, FiguresNameThreadsAndCountPages) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  bed.target().guest_may_wait();
  std::atomic<int> thread{0};
  bed.run_guest([&] {
    thread = static_cast<int>(::gettid());
    for (std::uint64_t page = 0; page < 10; ++page) bed.touch(page);
  });
  for (int i = 0; i < 10; ++i) {
    const auto wanted = bed.demanded(link);
    ASSERT_TRUE(wanted);
    ASSERT_EQ(wanted->size(), 1u);
    ASSERT_TRUE(bed.send(*link.urgent, wanted->front().first, 1));
  }
  bed.join_guests();
  // The last page was in place before it was counted.
  ASSERT_TRUE(becomes_true([&] { return bed.target().figures().faults == 10; }));
  const auto figures = bed.target().figures();
  EXPECT_EQ(figures.arrived, 10u);
  EXPECT_EQ(figures.twice, 0u);
  EXPECT_GT(figures.fault_p50_us, 0);
  EXPECT_LE(figures.fault_p50_us, figures.fault_p99_us);
  EXPECT_LE(figures.fault_p99_us, figures.fault_max_us);
  ASSERT_EQ(figures.stall_us_by_thread.size(), 1u);
  EXPECT_EQ(figures.stall_us_by_thread[0].first, thread);
  EXPECT_GE(figures.stall_us_by_thread[0].second, figures.fault_max_us);
  EXPECT_GE(figures.wire_bytes, 10 * kPageSize);
}

TEST(LazyTarget, APageThatComesTwiceNeverUndoesWhatTheGuestWrote) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  bed.target().guest_may_wait();
  // Both lanes bring everything, and two guest threads demand it meanwhile.
  std::thread server([&] { bed.serve(link); });
  std::thread pusher([&] {
    for (int pass = 0; pass < 3; ++pass) {
      for (std::uint64_t page = 0; page < kPages; page += 64) {
        if (!bed.send(*link.bulk, page, 64)) return;
      }
    }
  });
  std::atomic<std::uint64_t> wrong{0};
  constexpr std::uint64_t kThreads = 2;
  const auto mark_of = [](std::uint64_t page) { return 0xfeed0000 + page; };
  for (std::uint64_t guest = 0; guest < kThreads; ++guest) {
    bed.run_guest([&, guest] {
      for (std::uint64_t i = 0; i < kPages / kThreads; ++i) {
        // Against the push's direction, and all over.
        const std::uint64_t page = (kPages - 1 - (i * kThreads + guest) * 37 % kPages) % kPages;
        if (!bed.page_is_right(page)) ++wrong;
        const std::uint64_t mark = mark_of(page);
        std::memcpy(bed.ram().page(page).data(), &mark, sizeof mark);
      }
    });
  }
  bed.join_guests();
  pusher.join();
  // What is behind the last push record has been looked at, too.
  ASSERT_TRUE(becomes_true([&] {
    const auto figures = bed.target().figures();
    return figures.arrived + figures.twice >= 3 * kPages;
  }));
  EXPECT_EQ(wrong, 0u);
  EXPECT_FALSE(bed.target().failure());
  for (std::uint64_t page = 0; page < kPages; ++page) {
    std::uint64_t mark = 0;
    std::memcpy(&mark, bed.ram().page(page).data(), sizeof mark);
    ASSERT_EQ(mark, mark_of(page)) << page;
  }
  EXPECT_EQ(bed.target().figures().arrived, kPages);
  bed.target().detach();
  server.join();
}

TEST(LazyTarget, FaultsBeforeTheLanesAreDemandedWithThem) {
  LazyBed bed(RamKind::kMemfd, kPages);
  bed.create();
  bed.miss_all();
  std::atomic<int> right{0};
  for (const std::uint64_t page : {1, 2}) {
    bed.run_guest([&, page] { right += bed.page_is_right(page) ? 1 : 0; });
  }
  SourceLink link = bed.attach();
  std::thread server([&] { bed.serve(link); });
  bed.join_guests();
  EXPECT_EQ(right, 2);
  bed.target().detach();
  server.join();
}

TEST(LazyTarget, ALostLinkKeepsTheGuestWaitingUntilTheNextServesIt) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  bed.target().guest_may_wait();
  std::atomic<int> right{0};
  constexpr int kThreads = 4;
  for (std::uint64_t i = 0; i < kThreads; ++i) {
    bed.run_guest([&, i] { right += bed.page_is_right(100 * i) ? 1 : 0; });
  }
  for (int cut = 1; cut <= 3; ++cut) {
    // Everybody's wait reaches every link, be it at once or with attach().
    std::uint64_t demanded = 0;
    while (demanded < kThreads) {
      const auto wanted = bed.demanded(link);
      ASSERT_TRUE(wanted) << wanted.error().to_text();
      demanded += count_of(*wanted);
    }
    link.urgent->channel().shutdown();
    link.bulk->channel().shutdown();
    bed.wait_for_news(cut);
    EXPECT_EQ(bed.failure_code(), ErrorCode::kLinkLost);
    bed.target().detach();
    EXPECT_EQ(bed.target().missing().count(), kPages);
    EXPECT_EQ(right, 0);
    link = bed.attach();
    EXPECT_FALSE(bed.target().failure());
  }
  EXPECT_EQ(bed.news(), 3);
  std::thread server([&] { bed.serve(link); });
  bed.join_guests();
  EXPECT_EQ(right, kThreads);
  bed.target().detach();
  server.join();
}

TEST(LazyTarget, AFaultWhileThereIsNoLinkIsDemandedOnTheNext) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  bed.target().guest_may_wait();
  bed.target().detach();
  EXPECT_FALSE(bed.target().failure());
  std::atomic<bool> right{false};
  bed.run_guest([&] { right = bed.page_is_right(5); });
  link = bed.attach();
  ASSERT_EQ(bed.demanded(link)->front().first, 5u);
  ASSERT_TRUE(bed.send(*link.urgent, 5, 1));
  bed.join_guests();
  EXPECT_TRUE(right);
}

TEST(LazyTarget, BeforeTheGuestMayWaitALostLinkGivesZerosNowAndLater) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  std::atomic<int> first{-1};
  bed.run_guest([&] { first = bed.touch(3); });
  ASSERT_TRUE(bed.demanded(link));
  link.urgent->channel().shutdown();
  bed.join_guests();
  EXPECT_EQ(first, 0);
  bed.wait_for_news();
  EXPECT_EQ(bed.failure_code(), ErrorCode::kLinkLost);
  EXPECT_EQ(bed.touch(4), 0);
  // It never runs here.
  bed.target().detach();
  auto pair = make_channel_pair();
  ASSERT_TRUE(pair);
  const Status again = bed.target().attach(
      {}, std::make_unique<RecordChannel>(std::move(pair->first), lazy_hasher()), kLazyRound);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kCancelled);
  EXPECT_FALSE(bed.target().complete());
}

TEST(LazyTarget, BeforeTheGuestMayWaitDetachEndsAllWaiting) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  bed.run_guest([&] { bed.touch(3); });
  ASSERT_TRUE(bed.demanded(link));
  bed.target().detach();
  bed.join_guests();
  EXPECT_EQ(bed.failure_code(), ErrorCode::kCancelled);
}

TEST(LazyTarget, BeforeTheGuestMayWaitASilentSourceEndsAllWaiting) {
  LazyBed bed(RamKind::kAnonymous, kPages, std::chrono::milliseconds(200));
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  bed.run_guest([&] { bed.touch(3); });
  bed.join_guests();
  bed.wait_for_news();
  EXPECT_EQ(bed.failure_code(), ErrorCode::kTimeout);
}

TEST(LazyTarget, ASilentSourceIsALostLinkToAGuestThatMayWait) {
  LazyBed bed(RamKind::kAnonymous, kPages, std::chrono::milliseconds(200));
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  bed.target().guest_may_wait();
  std::atomic<bool> right{false};
  bed.run_guest([&] { right = bed.page_is_right(3); });
  bed.wait_for_news();
  EXPECT_EQ(bed.failure_code(), ErrorCode::kTimeout);
  EXPECT_FALSE(right);
  bed.target().detach();
  link = bed.attach();
  std::thread server([&] { bed.serve(link); });
  bed.join_guests();
  EXPECT_TRUE(right);
  bed.target().detach();
  server.join();
}

TEST(LazyTarget, NobodyIsToldOnceNewsHaveEnded) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  bed.target().guest_may_wait();
  {
    const SourceLink link = bed.attach();
    bed.target().end_news();
  }
  ASSERT_TRUE(becomes_true([&] { return bed.target().failure().has_value(); }));
  bed.target().detach();  // The lanes have said all that they had to say.
  EXPECT_EQ(bed.news(), 0);
}

TEST(LazyTarget, ASilentSourceThatNobodyWaitsForIsNoFailure) {
  constexpr std::chrono::milliseconds kIdle{20};
  LazyBed bed(RamKind::kAnonymous, kPages, kIdle);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  std::this_thread::sleep_for(10 * kIdle);
  ASSERT_TRUE(bed.send(*link.urgent, 0, 1));
  ASSERT_TRUE(bed.send(*link.bulk, 1, 1));
  ASSERT_TRUE(becomes_true([&] { return bed.target().missing_pages() == kPages - 2; }));
  EXPECT_FALSE(bed.target().failure());
}

TEST(LazyTarget, ItsEndLetsGoOfWhoeverWaits) {
  for (const bool attached : {false, true}) {
    LazyBed bed(RamKind::kAnonymous, kPages);
    bed.create();
    bed.miss_all();
    SourceLink link;
    if (attached) link = bed.attach();
    bed.target().guest_may_wait();
    std::atomic<int> seen{-1};
    std::atomic<bool> begun{false};
    bed.run_guest([&] {
      begun = true;
      seen = bed.touch(3);
    });
    if (attached) {
      ASSERT_TRUE(bed.demanded(link));
    }
    ASSERT_TRUE(becomes_true([&] { return begun.load(); }));
    bed.end_target();
    bed.join_guests();
    EXPECT_EQ(seen, 0);
  }
}

TEST(LazyTarget, LanesThatEndWhenAllHasComeAreNoFailure) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  bed.miss_all();
  SourceLink link = bed.attach();
  ASSERT_TRUE(bed.send(*link.bulk, 0, kPages));
  bed.wait_for_news();
  EXPECT_TRUE(bed.target().complete());
  link = {};
  bed.target().guest_may_wait();
  bed.target().detach();
  EXPECT_FALSE(bed.target().failure());
  EXPECT_EQ(bed.news(), 1);
  EXPECT_EQ(bed.pages_that_are_wrong(), 0u);
}

TEST(LazyTarget, MemoryThatIsTakenIsBusyAndFreeAfterwards) {
  LazyBed bed(RamKind::kAnonymous, kPages);
  bed.create();
  postcopy::LazyTarget::Context context{.pages = bed.ram(),
                                        .ledger = bed.ledger(),
                                        .digest = bed.digest(),
                                        .idle_max = kLong,
                                        .on_news = [] {}};
  const auto second = postcopy::LazyTarget::create(context);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
  bed.end_target();
  const auto third = postcopy::LazyTarget::create(context);
  EXPECT_TRUE(third);
}

}  // namespace
}  // namespace migrate::test
