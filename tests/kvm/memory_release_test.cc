// Memory given back while the rest of the guest's is still needed.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "adapters/kvm/guest_memory.hpp"
#include "base/fd.hpp"
#include "base/huge_pages.hpp"
#include "tests/support/huge_pages.hpp"

namespace migrate::kvm {
namespace {

constexpr std::uint64_t kHuge = kHugePage2MiB / kPageSize;

/// A slot of whole MiBs, filled with what tells its pages apart.
class FilledSlot {
 public:
  /// `memfd`: of a memfd with these flags, at `offset_pages` of it.
  FilledSlot(std::uint64_t pages, Backing backing, int map_flags, bool memfd = false,
             unsigned memfd_flags = 0, std::uint64_t offset_pages = 0) {
    slot_.slot = 1;
    slot_.guest_address = {1ull << 30};
    slot_.bytes = pages * kPageSize;
    slot_.backing = backing;
    if (memfd) {
      memfd_ = Fd(::memfd_create("filled-slot", MFD_CLOEXEC | memfd_flags));
      EXPECT_EQ(::ftruncate(memfd_.get(), static_cast<off_t>((offset_pages + pages) * kPageSize)),
                0);
      slot_.memfd = memfd_.get();
      slot_.memfd_offset = offset_pages * kPageSize;
    }
    void* host = ::mmap(nullptr, slot_.bytes, PROT_READ | PROT_WRITE, map_flags, memfd_.get(),
                        static_cast<off_t>(slot_.memfd_offset));
    EXPECT_NE(host, MAP_FAILED);
    slot_.host = static_cast<std::byte*>(host);
    for (std::uint64_t page = 0; page < pages; ++page) {
      std::memset(slot_.host + page * kPageSize, static_cast<int>(1 + page % 200), kPageSize);
    }
  }
  ~FilledSlot() { ::munmap(slot_.host, slot_.bytes); }
  FilledSlot(const FilledSlot&) = delete;
  FilledSlot& operator=(const FilledSlot&) = delete;

  [[nodiscard]] const KvmMemorySlot& slot() const { return slot_; }
  [[nodiscard]] RegionId region() const { return region_of(slot_).id; }
  [[nodiscard]] PageRange pages(std::uint64_t first, std::uint64_t count) const {
    return {slot_.guest_address.page() + first, count};
  }
  [[nodiscard]] bool as_filled(std::uint64_t page) const {
    return slot_.host[page * kPageSize + 9] == static_cast<std::byte>(1 + page % 200);
  }
  /// Without touching it.
  [[nodiscard]] bool exists(std::uint64_t page) const {
    unsigned char resident = 0;
    EXPECT_EQ(::mincore(slot_.host + page * kPageSize, kPageSize, &resident), 0);
    return (resident & 1U) != 0;
  }
  [[nodiscard]] std::uint64_t allocated_pages() const {
    struct stat info {};
    EXPECT_EQ(::fstat(memfd_.get(), &info), 0);
    return static_cast<std::uint64_t>(info.st_blocks) * 512 / kPageSize;
  }

 private:
  Fd memfd_;
  KvmMemorySlot slot_;
};

TEST(MemoryRelease, PrivatePagesGoBackOneByOne) {
  const FilledSlot filled(64, Backing::kAnonymous, MAP_PRIVATE | MAP_ANONYMOUS);
  KvmPageSource source({filled.slot()});
  ASSERT_TRUE(source.release(filled.region(), filled.pages(8, 3)));
  for (std::uint64_t page = 0; page < 64; ++page) {
    EXPECT_EQ(filled.exists(page), page < 8 || page >= 11) << page;
  }
  EXPECT_TRUE(filled.as_filled(7));
  EXPECT_TRUE(filled.as_filled(11));
}

TEST(MemoryRelease, PagesOfAMemfdGoBackToTheHostNotOnlyOutOfTheMapping) {
  const FilledSlot filled(64, Backing::kMemfd, MAP_SHARED, true, 0, 5);
  KvmPageSource source({filled.slot()});
  ASSERT_EQ(filled.allocated_pages(), 64u);
  ASSERT_TRUE(source.release(filled.region(), filled.pages(8, 3)));
  EXPECT_EQ(filled.allocated_pages(), 61u);
  EXPECT_TRUE(filled.as_filled(7));
  EXPECT_TRUE(filled.as_filled(11));
}

TEST(MemoryRelease, PagesThatAreNotTheRegionsAreRefused) {
  const FilledSlot filled(64, Backing::kAnonymous, MAP_PRIVATE | MAP_ANONYMOUS);
  KvmPageSource source({filled.slot()});
  EXPECT_FALSE(source.release(filled.region(), filled.pages(60, 5)));
  for (std::uint64_t page = 0; page < 64; ++page) EXPECT_TRUE(filled.as_filled(page));
}

/// Page by page in a mixed order: no page that is still needed may go with another.
void release_by_pieces(const FilledSlot& filled, KvmPageSource& source) {
  // All of huge page 1 but its last page, in two orders, twice what overlaps.
  ASSERT_TRUE(source.release(filled.region(), filled.pages(kHuge + 100, 300)));
  ASSERT_TRUE(source.release(filled.region(), filled.pages(kHuge, 200)));
  ASSERT_TRUE(source.release(filled.region(), filled.pages(kHuge + 350, kHuge - 351)));
  EXPECT_TRUE(filled.exists(kHuge)) << "one page of it is needed";
  EXPECT_TRUE(filled.as_filled(2 * kHuge - 1));
  // And the last, with a part of its neighbour.
  ASSERT_TRUE(source.release(filled.region(), filled.pages(2 * kHuge - 1, 20)));
  EXPECT_FALSE(filled.exists(kHuge));
  EXPECT_TRUE(filled.exists(0));
  EXPECT_TRUE(filled.as_filled(0));
  EXPECT_TRUE(filled.exists(2 * kHuge));
  EXPECT_TRUE(filled.as_filled(2 * kHuge + 19));
}

TEST(MemoryRelease, PrivateHugePagesGoWhole) {
  const testing::HugePages reserved(4);
  if (!reserved.why_not().empty()) GTEST_SKIP() << reserved.why_not();
  const FilledSlot filled(4 * kHuge, Backing::kHugetlb, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB);
  KvmPageSource source({filled.slot()});
  release_by_pieces(filled, source);
}

TEST(MemoryRelease, SharedHugePagesGoWholeAlsoWhereTheSlotIsAPartOfTheFile) {
  const testing::HugePages reserved(5);
  if (!reserved.why_not().empty()) GTEST_SKIP() << reserved.why_not();
  const FilledSlot filled(4 * kHuge, Backing::kHugetlb, MAP_SHARED, true, MFD_HUGETLB, kHuge);
  KvmPageSource source({filled.slot()});
  ASSERT_EQ(filled.allocated_pages(), 4 * kHuge);
  ASSERT_TRUE(source.release(filled.region(), filled.pages(kHuge, 100)));
  EXPECT_EQ(filled.allocated_pages(), 4 * kHuge);
  EXPECT_TRUE(filled.as_filled(kHuge + 100));
  ASSERT_TRUE(source.release(filled.region(), filled.pages(kHuge + 100, kHuge - 100)));
  EXPECT_EQ(filled.allocated_pages(), 3 * kHuge);
  EXPECT_TRUE(filled.as_filled(kHuge - 1));
  EXPECT_TRUE(filled.as_filled(2 * kHuge));
}

}  // namespace
}  // namespace migrate::kvm
