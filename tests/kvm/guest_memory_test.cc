// Memory slots as pages: holes are found without touching them, zeroed pages read as zero and give
// their memory back.
#include "adapters/kvm/guest_memory.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "base/fd.hpp"
#include "base/huge_pages.hpp"
#include "tests/support/huge_pages.hpp"

namespace migrate::kvm {
namespace {

constexpr std::uint64_t kPages = 512;
constexpr std::uint64_t kFirst = 4096;  ///< The slot's first guest page.
constexpr std::uint64_t kOffset = 3;    ///< Pages of the memfd before the slot.

/// A slot of fresh memory with the backing to be tested.
class FreshSlot {
 public:
  explicit FreshSlot(Backing backing) {
    slot_.slot = 2;
    slot_.guest_address = {kFirst * kPageSize};
    slot_.bytes = kPages * kPageSize;
    slot_.backing = backing;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (backing == Backing::kMemfd) {
      memfd_ = Fd(::memfd_create("fresh-slot", MFD_CLOEXEC));
      EXPECT_EQ(::ftruncate(memfd_.get(), (kOffset + kPages) * kPageSize), 0);
      slot_.memfd = memfd_.get();
      slot_.memfd_offset = kOffset * kPageSize;
      flags = MAP_SHARED;
    } else if (backing == Backing::kUnknown) {
      flags = MAP_SHARED | MAP_ANONYMOUS;
    }
    void* host = ::mmap(nullptr, slot_.bytes, PROT_READ | PROT_WRITE, flags, memfd_.get(),
                        static_cast<off_t>(slot_.memfd_offset));
    EXPECT_NE(host, MAP_FAILED);
    slot_.host = static_cast<std::byte*>(host);
  }
  ~FreshSlot() { ::munmap(slot_.host, slot_.bytes); }
  FreshSlot(const FreshSlot&) = delete;
  FreshSlot& operator=(const FreshSlot&) = delete;

  [[nodiscard]] const KvmMemorySlot& slot() const { return slot_; }
  [[nodiscard]] std::byte* page(std::uint64_t number) const {
    return slot_.host + (number - kFirst) * kPageSize;
  }
  [[nodiscard]] RegionId region() const { return region_of(slot_).id; }
  [[nodiscard]] std::uint64_t allocated_pages() const {
    struct stat info {};
    EXPECT_EQ(::fstat(memfd_.get(), &info), 0);
    return static_cast<std::uint64_t>(info.st_blocks) * 512 / kPageSize;
  }

 private:
  Fd memfd_;
  KvmMemorySlot slot_;
};

PageBitmap holes_of(const FreshSlot& fresh) {
  KvmPageSource source({fresh.slot()});
  const std::vector<Region> regions = {region_of(fresh.slot())};
  PageBitmap holes(regions);
  EXPECT_TRUE(source.holes(fresh.region(), holes));
  return holes;
}

TEST(GuestMemory, HolesOfAMemfdAreFoundWithoutAllocatingThem) {
  const FreshSlot fresh(Backing::kMemfd);
  for (const std::uint64_t page : {kFirst, kFirst + 7, kFirst + 8, kFirst + kPages - 1}) {
    *fresh.page(page) = std::byte{1};
  }
  const PageBitmap holes = holes_of(fresh);
  EXPECT_EQ(holes.count(), kPages - 4);
  EXPECT_FALSE(holes.test(fresh.region(), {kFirst + 7}));
  EXPECT_TRUE(holes.test(fresh.region(), {kFirst + 9}));
  EXPECT_EQ(fresh.allocated_pages(), 4U);
}

TEST(GuestMemory, AMemfdNeverTouchedIsAllHolesAndOneFilledHasNone) {
  const FreshSlot fresh(Backing::kMemfd);
  EXPECT_EQ(holes_of(fresh).count(), kPages);
  std::memset(fresh.slot().host, 1, fresh.slot().bytes);
  EXPECT_EQ(holes_of(fresh).count(), 0U);
}

TEST(GuestMemory, HolesOfPrivateMemoryAreFoundAndOfUnknownMemoryNot) {
  const FreshSlot anonymous(Backing::kAnonymous);
  ::madvise(anonymous.slot().host, anonymous.slot().bytes, MADV_NOHUGEPAGE);
  *anonymous.page(kFirst + 100) = std::byte{1};
  const PageBitmap holes = holes_of(anonymous);
  EXPECT_EQ(holes.count(), kPages - 1);
  EXPECT_FALSE(holes.test(anonymous.region(), {kFirst + 100}));
  EXPECT_EQ(holes_of(FreshSlot(Backing::kUnknown)).count(), 0U);
}

TEST(GuestMemory, WhereAFileLiesUnderPrivateMemoryThereAreNoHoles) {
  const FreshSlot fresh(Backing::kAnonymous);
  ::madvise(fresh.slot().host, fresh.slot().bytes, MADV_NOHUGEPAGE);
  // As a restore maps an image's pages: nobody has looked at them yet.
  const Fd file(::memfd_create("image", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 16 * kPageSize), 0);
  ASSERT_EQ(::pwrite(file.get(), "content", 7, 0), 7);
  ASSERT_NE(::mmap(fresh.page(kFirst + 32), 16 * kPageSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_FIXED, file.get(), 0),
            MAP_FAILED);
  const PageBitmap holes = holes_of(fresh);
  EXPECT_EQ(holes.count(), kPages - 16);
  EXPECT_FALSE(holes.test(fresh.region(), {kFirst + 32}));
  EXPECT_FALSE(holes.test(fresh.region(), {kFirst + 47}));
  EXPECT_TRUE(holes.test(fresh.region(), {kFirst + 31}));
  EXPECT_TRUE(holes.test(fresh.region(), {kFirst + 48}));
}

class ZeroedPages : public ::testing::TestWithParam<Backing> {};
INSTANTIATE_TEST_SUITE_P(Backings, ZeroedPages,
                         ::testing::Values(Backing::kMemfd, Backing::kAnonymous,
                                           Backing::kUnknown));

TEST_P(ZeroedPages, ReadAsZeroAndTheirNeighboursAsBefore) {
  const FreshSlot fresh(GetParam());
  KvmPageSink sink;
  sink.use({fresh.slot()});
  std::mt19937_64 random(5);
  for (int round = 0; round < 200; ++round) {
    // Some pages exist, some do not.
    for (std::uint64_t i = 0; i < kPages; i += 1 + random() % 3) {
      std::memset(fresh.page(kFirst + i), 0x77, kPageSize);
    }
    std::vector<std::byte> before(fresh.slot().host, fresh.slot().host + fresh.slot().bytes);
    const std::uint64_t first = random() % kPages;
    const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(kPages - first, 40);
    ASSERT_TRUE(sink.zero(fresh.region(), PageRange{{kFirst + first}, count}));
    std::memset(before.data() + first * kPageSize, 0, count * kPageSize);
    ASSERT_EQ(std::memcmp(before.data(), fresh.slot().host, before.size()), 0)
        << "zeroing " << count << " pages from " << first;
  }
}

TEST(GuestMemory, ZeroedPagesGiveTheirMemoryBack) {
  const FreshSlot fresh(Backing::kMemfd);
  KvmPageSink sink;
  sink.use({fresh.slot()});
  std::memset(fresh.slot().host, 1, fresh.slot().bytes);
  ASSERT_TRUE(sink.zero(fresh.region(), PageRange{{kFirst}, kPages / 2}));
  EXPECT_EQ(fresh.allocated_pages(), kPages / 2);
}

TEST(GuestMemory, ZeroingHolesAllocatesNothing) {
  const FreshSlot fresh(Backing::kMemfd);
  KvmPageSink sink;
  sink.use({fresh.slot()});
  for (std::uint64_t page = 0; page < kPages; page += 4) {
    ASSERT_TRUE(sink.zero(fresh.region(), PageRange{{kFirst + page}, 1 + page % 4}));
  }
  EXPECT_EQ(fresh.allocated_pages(), 0U);
}

/// Private memory of huge pages: `slot` for the adapter.
class HugeSlot {
 public:
  static constexpr std::uint64_t kHuge = 512;  ///< Pages of 4 KiB.
  static constexpr std::uint64_t kHugePages = 4;

  HugeSlot() {
    slot.guest_address = {1ull << 30};
    slot.bytes = kHugePages * kHugePage2MiB;
    slot.backing = Backing::kHugetlb;
    void* host = ::mmap(nullptr, slot.bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    EXPECT_NE(host, MAP_FAILED);
    slot.host = static_cast<std::byte*>(host);
  }
  ~HugeSlot() { ::munmap(slot.host, slot.bytes); }
  HugeSlot(const HugeSlot&) = delete;
  HugeSlot& operator=(const HugeSlot&) = delete;

  [[nodiscard]] PageRange pages(std::uint64_t first, std::uint64_t count) const {
    return {slot.guest_address.page() + first, count};
  }
  /// What the kernel has given of it.
  [[nodiscard]] std::uint64_t existing() const {
    std::uint64_t count = 0;
    for (std::uint64_t i = 0; i < kHugePages; ++i) {
      unsigned char resident = 0;
      EXPECT_EQ(::mincore(slot.host + i * kHugePage2MiB, kPageSize, &resident), 0);
      count += resident & 1U;
    }
    return count;
  }

  KvmMemorySlot slot;
};

TEST(GuestMemory, HolesOfHugePagesAreFoundWithoutTakingThem) {
  const testing::HugePages reserved(HugeSlot::kHugePages);
  if (!reserved.why_not().empty()) GTEST_SKIP() << reserved.why_not();
  const HugeSlot huge;
  huge.slot.host[kHugePage2MiB + 5 * kPageSize] = std::byte{1};
  KvmPageSource source({huge.slot});
  const std::vector<Region> regions = {region_of(huge.slot)};
  PageBitmap holes(regions);
  ASSERT_TRUE(source.holes(regions[0].id, holes));
  EXPECT_EQ(holes.count(), (HugeSlot::kHugePages - 1) * HugeSlot::kHuge);
  EXPECT_FALSE(holes.test(regions[0].id, huge.slot.guest_address.page() + HugeSlot::kHuge));
  EXPECT_EQ(huge.existing(), 1U);
}

TEST(GuestMemory, ZeroingHugePagesOverwritesWhatExistsAndTakesNoMore) {
  const testing::HugePages reserved(HugeSlot::kHugePages);
  if (!reserved.why_not().empty()) GTEST_SKIP() << reserved.why_not();
  const HugeSlot huge;
  // The second and the third exist.
  std::memset(huge.slot.host + kHugePage2MiB, 0x77, 2 * kHugePage2MiB);
  KvmPageSink sink;
  sink.use({huge.slot});
  const RegionId region = region_of(huge.slot).id;
  // One page, then from within the first, which is a hole, to within the last.
  ASSERT_TRUE(sink.zero(region, huge.pages(HugeSlot::kHuge + 9, 1)));
  EXPECT_EQ(huge.slot.host[kHugePage2MiB + 8 * kPageSize], std::byte{0x77});
  EXPECT_EQ(huge.slot.host[kHugePage2MiB + 9 * kPageSize], std::byte{0});
  EXPECT_EQ(huge.slot.host[kHugePage2MiB + 10 * kPageSize - 1], std::byte{0});
  EXPECT_EQ(huge.slot.host[kHugePage2MiB + 10 * kPageSize], std::byte{0x77});
  ASSERT_TRUE(sink.zero(region, huge.pages(3, HugeSlot::kHuge * 2)));
  EXPECT_EQ(huge.existing(), 2U);
  // Up to the third page of the third.
  const std::byte* end = huge.slot.host + 2 * kHugePage2MiB + 3 * kPageSize;
  EXPECT_TRUE(std::all_of<const std::byte*>(huge.slot.host + kHugePage2MiB, end,
                                            [](std::byte value) { return value == std::byte{0}; }));
  EXPECT_EQ(*end, std::byte{0x77});
  ASSERT_TRUE(sink.zero(region, huge.pages(0, HugeSlot::kHugePages * HugeSlot::kHuge)));
  EXPECT_EQ(huge.existing(), 2U);
  EXPECT_EQ(*end, std::byte{0});
}

TEST(GuestMemory, ReadsAndWritesWholePagesOfItsSlotsOnly) {
  const FreshSlot fresh(Backing::kMemfd);
  KvmPageSink sink;
  sink.use({fresh.slot()});
  KvmPageSource source({fresh.slot()});
  const std::vector<std::byte> bytes(2 * kPageSize, std::byte{9});
  std::vector<std::byte> back(2 * kPageSize);
  const PageRange range{{kFirst + 10}, 2};
  ASSERT_TRUE(sink.write(fresh.region(), range, bytes));
  ASSERT_TRUE(source.read(fresh.region(), range, back));
  EXPECT_EQ(back, bytes);
  ASSERT_TRUE(sink.read(fresh.region(), range, back));
  EXPECT_EQ(source.mapped(fresh.region()).size(), fresh.slot().bytes);
  EXPECT_EQ(sink.mapped(fresh.region()).data(), fresh.slot().host);
  EXPECT_TRUE(source.mapped(RegionId{0, 3, 0}).empty());
  for (const PageRange outside : {PageRange{{kFirst - 1}, 2}, PageRange{{kFirst + kPages - 1}, 2},
                                  PageRange{{kFirst}, ~0ull}}) {
    EXPECT_FALSE(sink.zero(fresh.region(), outside));
    EXPECT_FALSE(sink.write(fresh.region(), outside, bytes));
  }
  EXPECT_FALSE(sink.write(fresh.region(), PageRange{{kFirst}, 1}, bytes));
  EXPECT_FALSE(sink.write(RegionId{0, 3, 0}, range, bytes));
}

TEST(GuestMemory, OnlyTheRegionsItWasBuiltWithAreAccepted) {
  const FreshSlot fresh(Backing::kMemfd);
  KvmPageSink sink;
  sink.use({fresh.slot()});
  RegionDelta same;
  same.added = {region_of(fresh.slot())};
  EXPECT_TRUE(sink.update_regions(same));
  RegionDelta removed;
  removed.removed = {fresh.region()};
  EXPECT_FALSE(sink.update_regions(removed));
  same.added[0].range.count += 1;
  EXPECT_FALSE(sink.update_regions(same));
}

}  // namespace
}  // namespace migrate::kvm
