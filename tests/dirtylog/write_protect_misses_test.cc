// What write protection cannot see, shown on the kernel here, so that covers() says the truth; and
// that marking these writes when they have completed closes the gap.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <liburing.h>

#include <cstring>
#include <functional>
#include <thread>

#include "tests/dirtylog/held_file.hpp"
#include "tests/dirtylog/write_protect_areas.hpp"

namespace migrate::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr std::uint64_t kPage = 5;  ///< Written behind the tracker's back.

class WriteProtectMisses : public ::testing::Test {
 protected:
  void SetUp() override { MIGRATE_NEEDS_WRITE_PROTECT(); }

  /// Tracks `area` by write protection and marks, and by a bare tracker's rules: `write` changes
  /// kPage and must be missed by the one, and told once it is marked.
  static void expect_missed(const MappedArea& area, const std::function<void()>& write) {
    std::shared_ptr<DirtyTracker> pages = tracker_of({&area});
    const auto marks = make_software_bitmap(std::array{area.region()});
    const auto all = make_composite_tracker({pages, marks});
    const Status status = all->start();
    ASSERT_TRUE(status) << status.error().to_text();
    AreaCopy copy(area);

    const std::vector<std::byte> before(area.page(kPage), area.page(kPage) + kPageSize);
    write();
    ASSERT_NE(std::memcmp(before.data(), area.page(kPage), kPageSize), 0) << "nothing was written";

    PageBitmap set = set_of(area);
    ASSERT_TRUE(all->collect(set));
    copy.read(set);
    EXPECT_THAT(indexes(set, area), Not(Contains(kPage)))
        << "this kernel tells a write that the tracker's documentation calls a miss";
    EXPECT_THAT(copy.stale(), Contains(kPage));

    marks->mark(0, PageRange{area.region().range.first + kPage, 1});
    PageBitmap marked = set_of(area);
    ASSERT_TRUE(all->collect(marked));
    copy.read(marked);
    EXPECT_THAT(indexes(marked, area), ElementsAre(kPage));
    EXPECT_THAT(copy.stale(), IsEmpty());

    EXPECT_TRUE(all->covers().pinned && all->covers().other_mappings);
    EXPECT_FALSE(pages->covers().pinned || pages->covers().other_mappings);
  }
};

TEST_F(WriteProtectMisses, AWriteThroughAnotherMapping) {
  const MappedArea area(AreaKind::kMemfd, 64);
  area.write_all();
  void* other = ::mmap(nullptr, area.bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, area.memfd(), 0);
  ASSERT_NE(other, MAP_FAILED);
  expect_missed(
      area, [&] { std::memset(static_cast<std::byte*>(other) + kPage * kPageSize, 7, kPageSize); });
  ::munmap(other, area.bytes());
}

TEST_F(WriteProtectMisses, AWriteToTheMemfd) {
  const MappedArea area(AreaKind::kMemfd, 64);
  area.write_all();
  expect_missed(area, [&] {
    ASSERT_EQ(::pwrite(area.memfd(), "content", 7, static_cast<off_t>(kPage * kPageSize)), 7);
  });
}

TEST_F(WriteProtectMisses, AHolePunchedIntoTheMemfd) {
  const MappedArea area(AreaKind::kMemfd, 64);
  area.write_all();
  expect_missed(area, [&] {
    ASSERT_EQ(::fallocate(area.memfd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          static_cast<off_t>(kPage * kPageSize), kPageSize),
              0);
  });
}

TEST_F(WriteProtectMisses, DiscardedHugetlbMemory) {
  MIGRATE_AREA(area, AreaKind::kHugetlbPrivate, 512);
  area.write(kPage);
  expect_missed(area,
                [&] { ASSERT_EQ(::madvise(area.address(), area.bytes(), MADV_DONTNEED), 0); });
}

TEST_F(WriteProtectMisses, AnIoUringReadIntoAFixedBuffer) {
  for (const AreaKind kind : {AreaKind::kPrivate, AreaKind::kMemfd}) {
    const MappedArea area(kind, 64);
    area.write_all();
    io_uring ring{};
    const int made = ::io_uring_queue_init(4, &ring, 0);
    if (made != 0) GTEST_SKIP() << "no io_uring here: " << std::strerror(-made);
    // Registered before tracking starts: pinned from then on.
    const iovec buffer{area.address(), area.bytes()};
    ASSERT_EQ(::io_uring_register_buffers(&ring, &buffer, 1), 0);
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const Fd from(ends[0]);
    const Fd to(ends[1]);
    ASSERT_EQ(::write(to.get(), "content", 7), 7);
    expect_missed(area, [&] {
      ::io_uring_prep_read_fixed(::io_uring_get_sqe(&ring), from.get(), area.page(kPage), 7, 0, 0);
      ASSERT_EQ(::io_uring_submit(&ring), 1);
      io_uring_cqe* done = nullptr;
      ASSERT_EQ(::io_uring_wait_cqe(&ring, &done), 0);
      EXPECT_EQ(done->res, 7);
    });
    ::io_uring_queue_exit(&ring);
  }
}

// The start of a direct read is seen, because pinning its pages for writing lifts their
// protection; what arrives after a collect has protected them again is not.
TEST_F(WriteProtectMisses, ADirectReadInFlightAcrossACollect) {
  const MappedArea area(AreaKind::kPrivate, 64);
  area.write_all();
  HeldFile file;
  if (!file.why_not().empty()) GTEST_SKIP() << file.why_not();
  const auto tracker = started({&area});
  ssize_t got = 0;
  std::thread reader([&] { got = ::pread(file.fd(), area.page(kPage), kPageSize, 0); });
  const bool pinned = file.wait_for_read();
  EXPECT_TRUE(pinned);

  PageBitmap first = set_of(area);
  EXPECT_TRUE(tracker->collect(first));
  EXPECT_THAT(indexes(first, area), ElementsAre(kPage));
  AreaCopy copy(area);
  file.answer();
  reader.join();
  ASSERT_EQ(got, static_cast<ssize_t>(kPageSize));
  ASSERT_EQ(*area.page(kPage), HeldFile::kFill);

  EXPECT_THAT(collected(*tracker, area), IsEmpty());
  EXPECT_THAT(copy.stale(), ElementsAre(kPage));
}

TEST_F(WriteProtectMisses, ADirectReadInFlightIsToldWhenItIsMarkedAtItsCompletion) {
  const MappedArea area(AreaKind::kPrivate, 64);
  area.write_all();
  HeldFile file;
  if (!file.why_not().empty()) GTEST_SKIP() << file.why_not();
  const auto marks = make_software_bitmap(std::array{area.region()});
  const auto all = make_composite_tracker({tracker_of({&area}), marks});
  ASSERT_TRUE(all->start());
  std::thread reader([&] {
    if (::pread(file.fd(), area.page(kPage), kPageSize, 0) > 0) {
      marks->mark(0, PageRange{area.region().range.first + kPage, 1});
    }
  });
  EXPECT_TRUE(file.wait_for_read());
  PageBitmap set = set_of(area);
  EXPECT_TRUE(all->collect(set));
  AreaCopy copy(area);
  file.answer();
  reader.join();
  PageBitmap marked = set_of(area);
  ASSERT_TRUE(all->collect(marked));
  copy.read(marked);
  EXPECT_THAT(copy.stale(), IsEmpty());
  EXPECT_EQ(*area.page(kPage), HeldFile::kFill);
}

}  // namespace
}  // namespace migrate::testing
