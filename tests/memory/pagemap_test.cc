// PAGEMAP_SCAN as the trackers use it.
#include "memory/pagemap.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "memory/uffd_abi.hpp"
#include "memory/userfault.hpp"
#include "migrate/memory.hpp"

namespace migrate {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// In order and without overlaps: kernels differ in how often they tell a hole.
std::vector<AddressRange> joined(std::vector<AddressRange> runs) {
  std::sort(runs.begin(), runs.end(), [](auto a, auto b) { return a.begin < b.begin; });
  std::vector<AddressRange> all;
  for (const AddressRange& run : runs) {
    if (!all.empty() && run.begin <= all.back().end) {
      all.back().end = std::max(all.back().end, run.end);
    } else {
      all.push_back(run);
    }
  }
  return all;
}

/// 256 pages, registered.
class PagemapScan : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kPages = 256;

  void SetUp() override {
    if (!probe_userfault().write_protect_async()) {
      GTEST_SKIP() << "userfaultfd: no WP_ASYNC here (errno " << probe_userfault().sys_errno << ")";
    }
    memory_ = ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory_, MAP_FAILED);
    auto userfault = Userfault::open(abi::kUffdWriteTracking, "the test");
    ASSERT_TRUE(userfault) << userfault.error().to_text();
    userfault_.emplace(*std::move(userfault));
    ASSERT_TRUE(userfault_->add(all(), Userfault::Use::kWriteProtect));
    auto pagemap = Pagemap::open();
    ASSERT_TRUE(pagemap) << pagemap.error().to_text();
    pagemap_.emplace(*std::move(pagemap));
  }
  void TearDown() override {
    userfault_.reset();
    if (memory_ != nullptr) ::munmap(memory_, kPages * kPageSize);
  }
  [[nodiscard]] AddressRange pages(std::uint64_t first, std::uint64_t count) const {
    const auto begin = reinterpret_cast<std::uint64_t>(memory_) + first * kPageSize;
    return {begin, begin + count * kPageSize};
  }
  [[nodiscard]] AddressRange all() const { return pages(0, kPages); }
  void write(std::uint64_t page) const {
    static_cast<volatile std::byte*>(memory_)[page * kPageSize] = std::byte{1};
  }
  std::vector<AddressRange> taken(AddressRange range) {
    std::vector<AddressRange> runs;
    const auto outcome = pagemap_->take_written(
        range, [&](AddressRange run) { runs.push_back(run); }, &*userfault_);
    EXPECT_TRUE(outcome && *outcome == ScanOutcome::kDone);
    return joined(std::move(runs));
  }
  std::vector<AddressRange> seen(AddressRange range) {
    std::vector<AddressRange> runs;
    const auto outcome = pagemap_->look(
        range, [&](AddressRange run) { runs.push_back(run); }, &*userfault_);
    EXPECT_TRUE(outcome && *outcome == ScanOutcome::kDone);
    return joined(std::move(runs));
  }

  void* memory_ = nullptr;
  std::optional<Userfault> userfault_;
  std::optional<Pagemap> pagemap_;
};

TEST_F(PagemapScan, TakesRunsOnceAndLooksWithoutTaking) {
  ASSERT_TRUE(pagemap_->protect(all(), &*userfault_));
  EXPECT_THAT(seen(all()), IsEmpty());
  for (const std::uint64_t page : {3, 4, 5, 200}) write(page);
  EXPECT_THAT(seen(all()), ElementsAre(pages(3, 3), pages(200, 1)));
  EXPECT_THAT(taken(pages(4, 100)), ElementsAre(pages(4, 2)));
  EXPECT_THAT(taken(all()), ElementsAre(pages(3, 1), pages(200, 1)));
  EXPECT_THAT(taken(all()), IsEmpty());
}

TEST_F(PagemapScan, ProtectsWhatWasNeverTouched) {
  EXPECT_THAT(seen(all()), ElementsAre(all()));
  ASSERT_TRUE(pagemap_->protect(pages(0, 128), &*userfault_));
  EXPECT_THAT(seen(all()), ElementsAre(pages(128, 128)));
  ASSERT_TRUE(userfault_->protect(pages(128, 64)));
  EXPECT_THAT(taken(all()), ElementsAre(pages(192, 64)));
}

TEST_F(PagemapScan, SaysWhenSomeOfTheRangeIsNotRegistered) {
  ASSERT_TRUE(pagemap_->protect(all(), &*userfault_));
  void* anew = ::mmap(static_cast<std::byte*>(memory_) + 100 * kPageSize, kPageSize,
                      PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  ASSERT_NE(anew, MAP_FAILED);
  const auto nothing = [](AddressRange) {};
  EXPECT_EQ(pagemap_->take_written(all(), nothing).value(), ScanOutcome::kUnregistered);
  EXPECT_EQ(pagemap_->look(all(), nothing).value(), ScanOutcome::kUnregistered);
  EXPECT_EQ(pagemap_->protect(all()).value(), ScanOutcome::kUnregistered);
  EXPECT_EQ(pagemap_->look(pages(0, 100), nothing).value(), ScanOutcome::kDone);
}

TEST_F(PagemapScan, SaysWhenTheProcessIsGone) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  auto pagemap = Pagemap::open(child);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ASSERT_TRUE(pagemap) << pagemap.error().to_text();
  EXPECT_EQ(pagemap->look(all(), [](AddressRange) {}).value(), ScanOutcome::kGone);
  EXPECT_EQ(Pagemap::open(child).error().code, ErrorCode::kNotFound);
}

TEST_F(PagemapScan, KnowsWhetherARangeIsMapped) {
  EXPECT_TRUE(is_mapped(all()));
  ASSERT_EQ(::munmap(static_cast<std::byte*>(memory_) + 100 * kPageSize, kPageSize), 0);
  EXPECT_FALSE(is_mapped(all()));
  EXPECT_TRUE(is_mapped(pages(0, 100)));
}

}  // namespace
}  // namespace migrate
