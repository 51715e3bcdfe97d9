// Ownership of userfaultfds: one owner a range, and errors that name it.
#include "memory/userfault.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "memory/uffd_abi.hpp"
#include "migrate/memory.hpp"

namespace migrate {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class UserfaultOwners : public ::testing::Test {
 protected:
  static constexpr std::size_t kPages = 16;

  void SetUp() override {
    if (!probe_userfault().write_protect_async()) {
      GTEST_SKIP() << "userfaultfd: no WP_ASYNC here (errno " << probe_userfault().sys_errno << ")";
    }
    memory_ = ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory_, MAP_FAILED);
  }
  void TearDown() override {
    if (memory_ != nullptr) ::munmap(memory_, kPages * kPageSize);
  }
  [[nodiscard]] AddressRange pages(std::uint64_t first, std::uint64_t count) const {
    const auto begin = reinterpret_cast<std::uint64_t>(memory_) + first * kPageSize;
    return {begin, begin + count * kPageSize};
  }
  static Userfault of(std::string_view owner) {
    auto made = Userfault::open(abi::kUffdWriteTracking, owner);
    EXPECT_TRUE(made) << made.error().to_text();
    return *std::move(made);
  }

  static constexpr auto kUse = Userfault::Use::kWriteProtect;
  void* memory_ = nullptr;
};

TEST_F(UserfaultOwners, ASecondOwnerIsRefusedByTheNameOfTheFirst) {
  Userfault first = of("lazy filling");
  Userfault second = of("tracking");
  ASSERT_TRUE(first.add(pages(4, 4), Userfault::Use::kMissing));
  for (const AddressRange range : {pages(4, 4), pages(0, 16), pages(7, 2), pages(3, 2)}) {
    const Status refused = second.add(range, kUse);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
    EXPECT_THAT(refused.error().message,
                AllOf(HasSubstr("of lazy filling"), HasSubstr("tracking")));
  }
  EXPECT_TRUE(second.add(pages(8, 4), kUse));
}

TEST_F(UserfaultOwners, AnOwnerOutsideTheLibraryIsFoundByTheKernel) {
  const Fd other(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
  auto stranger = Userfault::adopt(Fd(::dup(other.get())), abi::kUffdWriteTracking, "a stranger");
  ASSERT_TRUE(stranger) << stranger.error().to_text();
  ASSERT_TRUE(stranger->add(pages(0, 16), kUse));
  const Status refused = of("tracking").add(pages(2, 1), kUse);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  EXPECT_EQ(refused.error().sys_errno, EBUSY);
}

TEST_F(UserfaultOwners, ARangeIsFreeAgainWhenItsOwnerIsGone) {
  {
    Userfault first = of("first");
    ASSERT_TRUE(first.add(pages(0, 8), kUse));
    ASSERT_TRUE(first.add(pages(8, 8), kUse));
    ASSERT_TRUE(first.remove(pages(8, 8)));
    EXPECT_TRUE(of("second").add(pages(8, 8), kUse));
    EXPECT_FALSE(of("second").add(pages(0, 8), kUse));
  }
  EXPECT_TRUE(of("second").add(pages(0, 16), kUse));
}

TEST_F(UserfaultOwners, AMovedOwnerKeepsItsRanges) {
  std::optional<Userfault> moved;
  {
    Userfault first = of("first");
    ASSERT_TRUE(first.add(pages(0, 4), kUse));
    moved.emplace(std::move(first));
  }
  EXPECT_FALSE(of("second").add(pages(0, 4), kUse));
  moved.reset();
  EXPECT_TRUE(of("second").add(pages(0, 4), kUse));
}

TEST_F(UserfaultOwners, OwnersInManyThreadsNeverShareARange) {
  std::vector<std::thread> threads;
  std::atomic<int> inside{0};
  std::atomic<int> won{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      Userfault mine = of("one of many");
      for (int round = 0; round < 200; ++round) {
        if (!mine.add(pages(0, 8), kUse)) continue;
        EXPECT_EQ(inside.fetch_add(1), 0);
        ++won;
        inside.fetch_sub(1);
        EXPECT_TRUE(mine.remove(pages(0, 8)));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(won, 0);
}

TEST_F(UserfaultOwners, UnmappedMemoryIsNotFoundAndForgottenWithoutAnError) {
  Userfault owner = of("tracking");
  ASSERT_TRUE(owner.add(pages(0, 16), kUse));
  ASSERT_EQ(::munmap(memory_, kPages * kPageSize), 0);
  EXPECT_TRUE(owner.remove(pages(0, 16)));
  const Status refused = owner.add(pages(0, 16), kUse);
  memory_ = nullptr;
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFound);
}

TEST_F(UserfaultOwners, AGapInTheRangeIsNotFound) {
  Userfault owner = of("tracking");
  ASSERT_EQ(::munmap(static_cast<std::byte*>(memory_) + 4 * kPageSize, kPageSize), 0);
  const Status refused = owner.add(pages(0, 16), kUse);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFound);
}

TEST_F(UserfaultOwners, FeaturesTheKernelLacksAreUnsupported) {
  const auto made = Userfault::open(std::uint64_t{1} << 62, "tomorrow's tracking");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(made.error().message, HasSubstr("tomorrow's tracking"));
}

}  // namespace
}  // namespace migrate
