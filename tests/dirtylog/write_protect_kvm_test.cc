// The write-protect tracker on the memory behind a KVM guest's slots.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>

#include "memory/userfault.hpp"
#include "migrate/trackers.hpp"
#include "tests/kvm/tiny_guest.hpp"

namespace migrate {
namespace {

using testing::TinyGuest;
using testing::TinyGuestOptions;

/// What a migration would have of a guest's memory at the target.
class GuestCopy {
 public:
  explicit GuestCopy(TinyGuest& guest) : guest_(guest), bytes_(guest.pages() * kPageSize) {
    for (std::uint64_t page = 0; page < guest.pages(); ++page) read(page);
  }
  void read(const PageBitmap& set) {
    set.for_each_run([&](const RegionId&, PageRange run) {
      for (std::uint64_t i = 0; i < run.count; ++i) read(run.first.number + i);
    });
  }
  [[nodiscard]] std::uint64_t pages_that_differ() const {
    std::uint64_t differ = 0;
    for (std::uint64_t page = 0; page < guest_.pages(); ++page) {
      if (std::memcmp(&bytes_[page * kPageSize], guest_.page(page), kPageSize) != 0) ++differ;
    }
    return differ;
  }

 private:
  void read(std::uint64_t page) {
    std::memcpy(&bytes_[page * kPageSize], guest_.page(page), kPageSize);
  }
  TinyGuest& guest_;
  std::vector<std::byte> bytes_;
};

std::unique_ptr<DirtyTracker> write_protect(const TinyGuest& guest) {
  std::vector<MappedRegion> regions;
  for (const KvmMemorySlot& slot : guest.slots()) regions.push_back(mapped_region_of(slot));
  auto tracker = make_write_protect_tracker(regions);
  EXPECT_TRUE(tracker) << tracker.error().to_text();
  return tracker ? *std::move(tracker) : nullptr;
}

PageBitmap collected(DirtyTracker& tracker, const TinyGuest& guest) {
  PageBitmap set(guest.regions());
  const Status status = tracker.collect(set);
  EXPECT_TRUE(status) << status.error().to_text();
  return set;
}

class WriteProtectKvm : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    MIGRATE_NEEDS_KVM();
    if (!probe_userfault().write_protect_async()) GTEST_SKIP() << "userfaultfd: no WP_ASYNC here";
  }
  static TinyGuestOptions options() {
    TinyGuestOptions options;
    options.vcpus = 2;
    options.slot_pages = {2100, 1999};
    options.sweep_pages = 3000;
    options.anonymous = GetParam();
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(Memory, WriteProtectKvm, ::testing::Bool(), [](const auto& anonymous) {
  return anonymous.param ? "Anonymous" : "Memfd";
});

TEST_P(WriteProtectKvm, TellsWhatTheGuestWroteAndNothingOfWhatItDidNot) {
  TinyGuestOptions gated = options();
  gated.gated = true;
  TinyGuest guest(gated);
  guest.resume();
  guest.sweep(1);
  const auto tracker = write_protect(guest);
  ASSERT_TRUE(tracker->start());
  for (int round = 0; round < 3; ++round) {
    guest.sweep(1);
    const PageBitmap set = collected(*tracker, guest);
    PageBitmap swept(guest.regions());
    for (std::uint64_t page = gated.sweep_first; page < gated.sweep_first + gated.sweep_pages;
         ++page) {
      const bool second = page >= gated.slot_pages[0];
      swept.set(guest.regions()[second ? 1 : 0].id, GuestPage{page});
    }
    PageBitmap missed = swept;
    missed.subtract(set);
    EXPECT_EQ(missed.count(), 0U);
    PageBitmap more = set;
    more.subtract(swept);
    // The processors set bits in the guest's page tables.
    EXPECT_LE(more.count(), 8U);
  }
  EXPECT_EQ(collected(*tracker, guest).count(), 0U);
}

TEST_P(WriteProtectKvm, AndTheKvmBitmapBothMissNothingOfAGuestAtFullSpeed) {
  TinyGuest guest(options());
  const auto pages = write_protect(guest);
  auto bitmap = make_kvm_bitmap_tracker(guest.vm().vm_fd, guest.slots(), KvmLogMode::kPlain);
  ASSERT_TRUE(bitmap) << bitmap.error().to_text();
  ASSERT_TRUE(pages->start());
  ASSERT_TRUE((*bitmap)->start());
  GuestCopy by_pages(guest);
  GuestCopy by_bitmap(guest);
  guest.resume();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  std::uint64_t told = 0;
  for (int round = 0; round < 30 || told < 10 * guest.options().sweep_pages; ++round) {
    const PageBitmap set = collected(*pages, guest);
    told += set.count();
    by_pages.read(set);
    by_bitmap.read(collected(**bitmap, guest));
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "the guest does not write";
  }
  guest.pause();
  by_pages.read(collected(*pages, guest));
  by_bitmap.read(collected(**bitmap, guest));
  EXPECT_EQ(by_pages.pages_that_differ(), 0U);
  EXPECT_EQ(by_bitmap.pages_that_differ(), 0U);
}

// What the KVM log does not see: the VMM's own stores.
TEST_P(WriteProtectKvm, SeesTheVmmWriteWhereTheKvmLogDoesNot) {
  TinyGuest guest(options());
  const auto pages = write_protect(guest);
  auto bitmap = make_kvm_bitmap_tracker(guest.vm().vm_fd, guest.slots(), KvmLogMode::kPlain);
  ASSERT_TRUE(bitmap) << bitmap.error().to_text();
  ASSERT_TRUE(pages->start());
  ASSERT_TRUE((*bitmap)->start());
  std::memset(guest.page(2500), 7, kPageSize);
  EXPECT_TRUE(collected(*pages, guest).test(guest.regions()[1].id, GuestPage{2500}));
  EXPECT_EQ(collected(**bitmap, guest).count(), 0U);
}

}  // namespace
}  // namespace migrate
