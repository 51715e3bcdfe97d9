// Lazy restore: a guest that starts at once, and whose memory comes when it touches it.
#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "tests/checkpoint/restore_guest.hpp"

namespace migrate::checkpoint::testing {
namespace {

using Memory = Restore::Host::Memory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Every page in an order of its own, then all over again.
void read_all_pages(Guest& guest) {
  static std::atomic<unsigned> seeds{1};
  std::mt19937_64 random(seeds++);
  for (int i = 0; i < 30'000; ++i) {
    const std::uint64_t page = random() % 20'000;
    if (!guest.page_is_right(0, page)) ++guest.wrong;
    if (i % 200 == 0 && !guest.page_is_right(1, page % 130)) ++guest.wrong;
  }
}

class LazyRestoreOf
    : public LazyRestoreTest,
      public ::testing::WithParamInterface<std::tuple<CompressionChoice::Mode, RamKind>> {};

TEST_P(LazyRestoreOf, ReadersAtFullSpeedSeeEveryPageRight) {
  const auto& [mode, kind] = GetParam();
  make_image(mode);
  Guest guest(read_all_pages, 3);
  Restoring restoring(options(), guest.script({.kind = kind}));
  restoring.run();
  guest.join();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_EQ(guest.wrong, 0u);
  EXPECT_EQ(restoring.wrong_pages(), 0u);
  EXPECT_THAT(restoring.memory(), ElementsAre(Memory::kFollows, Memory::kComplete));
  const RestoreReport& report = restoring.result().report;
  EXPECT_GT(report.faults.count, 0u);
  EXPECT_EQ(report.pages.demand + report.pages.background, report.pages.total);
}
INSTANTIATE_TEST_SUITE_P(All, LazyRestoreOf,
                         ::testing::Combine(::testing::Values(CompressionChoice::Mode::kNone,
                                                              CompressionChoice::Mode::kZstd),
                                            ::testing::Values(RamKind::kAnonymous,
                                                              RamKind::kTransparentHuge,
                                                              RamKind::kMemfd)));

TEST_F(LazyRestoreTest, WhatTheGuestWritesStays) {
  make_image();
  Guest guest([](Guest& own) {
    for (std::uint64_t page = 0; page < 20'000; page += 7) {
      std::memset(own.at(0, page), 0x5A, 64);
    }
  });
  Restoring restoring(options(), guest.script());
  restoring.run();
  guest.join();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  for (std::uint64_t page = 0; page < 20'000; ++page) {
    auto content = page_content(0, page);
    if (page % 7 == 0) std::fill_n(content.begin(), 64, std::byte{0x5A});
    ASSERT_EQ(std::memcmp(guest.at(0, page), content.data(), kPageSize), 0) << page;
  }
}

TEST_F(LazyRestoreTest, WhoeverLoadsTheStateFindsMemoryThere) {
  make_image();
  bool right = false;
  BedTarget::Script script;
  script.hook = [&](BedTarget& target, const std::string& where) {
    if (where != "load") return;
    const auto content = page_content(0, 4000);
    const auto page = target.bytes(0).subspan(4000 * kPageSize, kPageSize);
    right = std::equal(content.begin(), content.end(), page.begin());
    page[0] = std::byte{0x77};  // As loading does.
  };
  Restoring restoring(options(), script);
  restoring.run();
  ASSERT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_TRUE(right);
  EXPECT_EQ(restoring.target().bytes(0)[4000 * kPageSize], std::byte{0x77});
  EXPECT_EQ(restoring.wrong_pages(), 1u);
}

TEST_F(LazyRestoreTest, MemoryThatWasFilledAheadIsNotTakenForTheImages) {
  make_image();
  BedTarget::Script script;
  script.kind = RamKind::kMemfd;
  script.hook = [](BedTarget& target, const std::string& where) {
    // What MAP_POPULATE leaves.
    if (where == "prepared") std::memset(target.bytes(0).data(), 0, target.bytes(0).size());
  };
  Restoring restoring(options(), script);
  restoring.run();
  EXPECT_EQ(restoring.wrong_pages(), 0u);
}

TEST_F(LazyRestoreTest, APageThatCannotBeReadBeforeTheStartIsAFailure) {
  make_image();
  const std::uint64_t at = damage_page(4000);
  BedTarget::Script script;
  script.hook = [](BedTarget& target, const std::string& where) {
    if (where != "load") return;
    volatile std::byte seen = target.bytes(0)[4000 * kPageSize];  // Ends, by zeros.
    static_cast<void>(seen);
  };
  Restoring restoring(options(), script);
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kFailed) << restoring.text();
  EXPECT_EQ(restoring.result().report.error->code, ErrorCode::kIntegrity);
  EXPECT_THAT(restoring.text(), HasSubstr(image_));
  EXPECT_THAT(restoring.text(), HasSubstr(std::to_string(at)));
  EXPECT_TRUE(restoring.target().discarded());
}

TEST_F(LazyRestoreTest, CancelEndsALoadThatWaitsForAPage) {
  make_image();
  damage_page(4000);
  Restoring* here = nullptr;
  std::thread canceller;
  BedTarget::Script script;
  script.hook = [&](BedTarget& target, const std::string& where) {
    if (where != "load") return;
    canceller = std::thread([&] { EXPECT_TRUE(here->restore().cancel()); });
    volatile std::byte seen = target.bytes(0)[4000 * kPageSize];
    static_cast<void>(seen);
  };
  Restoring restoring(options(), script);
  here = &restoring;
  restoring.run();
  canceller.join();
  EXPECT_TRUE(restoring.target().discarded());
  EXPECT_NE(restoring.result().outcome, Outcome::kDone);
}

TEST_F(LazyRestoreTest, AGuestThatTouchesADamagedPageWaitsAndTheOthersAreIntact) {
  make_image();
  const std::uint64_t at = damage_page(4000);
  Guest guest([](Guest& own) { (void)own.can_read(0, 4000); });
  RestoreOptions served = options();
  served.background = false;
  Restoring restoring(served, guest.script());
  restoring.run();
  // It returns at once, and is told by who finds out.
  EXPECT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  ASSERT_NE(restoring.result().waiting_memory, nullptr);
  wait_for([&] { return restoring.lost(); });
  EXPECT_THAT(restoring.memory(), ElementsAre(Memory::kFollows, Memory::kLost));
  EXPECT_THAT(restoring.reason(), HasSubstr(image_));
  EXPECT_THAT(restoring.reason(), HasSubstr(std::to_string(at)));
  for (std::uint64_t page = 0; page < 20'000; ++page) {
    if (page == 4000) continue;
    ASSERT_TRUE(guest.page_is_right(0, page)) << page;
  }
  EXPECT_EQ(guest.ended(), 0u) << "a page that is not there was read";
  restoring.drop_waiting_memory();
  guest.join();
}

TEST_F(LazyRestoreTest, DamageThatTheBackgroundFindsLosesTheGuestAndNamesIt) {
  make_image();
  damage_page(15'000);
  Restoring restoring(options());
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kLost) << restoring.text();
  EXPECT_THAT(restoring.memory(), ElementsAre(Memory::kFollows, Memory::kLost));
  ASSERT_TRUE(restoring.result().report.error);
  EXPECT_EQ(restoring.result().report.error->code, ErrorCode::kGuestLost);
  EXPECT_THAT(restoring.text(), HasSubstr(image_));
  EXPECT_NE(restoring.result().waiting_memory, nullptr);
  EXPECT_TRUE(restoring.target().started());
}

TEST_F(LazyRestoreTest, AFileThatIsCutShortUnderAGuestLosesIt) {
  make_image();
  BedTarget::Script script;
  script.hook = [this](BedTarget&, const std::string& where) {
    if (where != "start") return;
    ASSERT_EQ(::truncate(image_.c_str(), 1 << 20), 0);
  };
  Restoring restoring(options(), script);
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kLost) << restoring.text();
  EXPECT_NE(restoring.result().waiting_memory, nullptr);
}

TEST_F(LazyRestoreTest, WithoutBackgroundTheGuestIsServedForAsLongAsItIsKept) {
  make_image();
  Guest guest([](Guest& own) {
    while (!own.stop) ++own.turns;
    read_all_pages(own);
  });
  RestoreOptions served = options();
  served.background = false;
  Restoring restoring(served, guest.script());
  restoring.run();
  EXPECT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_EQ(restoring.result().report.pages.background, 0u);
  EXPECT_THAT(restoring.memory(), ElementsAre(Memory::kFollows));
  guest.stop = true;
  guest.join();
  EXPECT_EQ(guest.wrong, 0u);
}

TEST_F(LazyRestoreTest, AGuestThatEndsEndsTheReading) {
  make_image();
  // Nothing comes by itself for an hour, and the guest ends at once.
  RestoreOptions recorded = options();
  recorded.record = folder_.path("ws");
  recorded.record_for = std::chrono::hours(1);
  Restoring* here = nullptr;
  BedTarget::Script script;
  std::thread ender;
  script.hook = [&](BedTarget&, const std::string& where) {
    if (where == "start") ender = std::thread([&] { here->restore().guest_ended(); });
  };
  Restoring restoring(recorded, script);
  here = &restoring;
  restoring.run();
  ender.join();
  EXPECT_EQ(restoring.result().outcome, Outcome::kDone) << restoring.text();
  EXPECT_EQ(restoring.result().waiting_memory, nullptr);
}

}  // namespace
}  // namespace migrate::checkpoint::testing
