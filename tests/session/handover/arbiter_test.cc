// The file arbiter, with processes that compete.
#include "migrate/arbiter.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <list>

#include "tests/session/handover/processes.hpp"

namespace migrate {
namespace {

const std::string kSession = "00112233445566778899aabbccddeeff";

class FileArbiterTest : public testing::Test {
 protected:
  std::unique_ptr<Arbiter> arbiter() {
    Result<std::unique_ptr<Arbiter>> made = make_file_arbiter(folder_.path());
    MIGRATE_CHECK(made.has_value());
    return *std::move(made);
  }
  [[nodiscard]] std::string path() const { return folder_.path() + "/" + kSession + ".owner"; }
  /// 1 granted, 0 denied, -1 unknown.
  int ask(Side side) {
    const Result<bool> granted = arbiter()->acquire(kSession, side);
    return granted ? (*granted ? 1 : 0) : -1;
  }

  test::TempFolder folder_;
};

TEST_F(FileArbiterTest, TheFirstSideOwnsForGood) {
  EXPECT_EQ(ask(Side::kTarget), 1);
  EXPECT_EQ(ask(Side::kSource), 0);
  EXPECT_EQ(ask(Side::kTarget), 1) << "asking again changes nothing";
  EXPECT_EQ(ask(Side::kSource), 0);
}

TEST_F(FileArbiterTest, SessionsAreApart) {
  EXPECT_EQ(ask(Side::kTarget), 1);
  const Result<bool> other = arbiter()->acquire("ffeeddccbbaa99887766554433221100", Side::kSource);
  ASSERT_TRUE(other);
  EXPECT_TRUE(*other);
}

TEST_F(FileArbiterTest, OfManyProcessesOneSideWins) {
  for (int round = 0; round < 10; ++round) {
    std::list<test::Child> children;
    for (int i = 0; i < 6; ++i) {
      children.emplace_back([this, i](const std::function<void()>&) -> int {
        const int said = ask(i % 2 == 0 ? Side::kSource : Side::kTarget);
        return said < 0 ? 100 : said;
      });
    }
    int granted[2] = {0, 0};
    int i = 0;
    for (test::Child& child : children) {
      const int said = child.wait();
      EXPECT_LE(said, 1);
      granted[i++ % 2] += said;
    }
    EXPECT_TRUE((granted[0] == 3 && granted[1] == 0) || (granted[0] == 0 && granted[1] == 3))
        << granted[0] << " " << granted[1];
    std::filesystem::remove(path());
  }
}

TEST_F(FileArbiterTest, AProcessKilledOnTheWayLeavesOneOwnerOrNone) {
  for (int round = 0; round < 20; ++round) {
    test::Child child([this](const std::function<void()>& ready) -> int {
      ready();
      while (true) {
        if (ask(Side::kTarget) != 1) return 1;
      }
    });
    ASSERT_TRUE(child.wait_ready());
    child.kill_hard();
    const int source = ask(Side::kSource);
    const int target = ask(Side::kTarget);
    EXPECT_EQ(source + target, 1) << source << " " << target;
    std::filesystem::remove(path());
  }
}

TEST_F(FileArbiterTest, OnlyTheOwnersFileStays) {
  EXPECT_EQ(ask(Side::kTarget), 1);
  EXPECT_EQ(ask(Side::kSource), 0);
  const auto files = std::filesystem::directory_iterator(folder_.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST_F(FileArbiterTest, AFileThatNamesNobodyIsUnknownNotNobody) {
  for (const std::string content : {"", "migrate-owner 1 ", "nonsense\n"}) {
    std::ofstream(path(), std::ios::trunc) << content;
    const Result<bool> granted = arbiter()->acquire(kSession, Side::kTarget);
    ASSERT_FALSE(granted);
    EXPECT_EQ(granted.error().code, ErrorCode::kIntegrity);
    EXPECT_NE(granted.error().message.find(path()), std::string::npos);
  }
}

TEST_F(FileArbiterTest, WhatIsNoSessionNeverReachesAPath) {
  for (const std::string session :
       {"", "../../../etc/passwd", "0011", "../112233445566778899aabbccddeef"}) {
    EXPECT_FALSE(arbiter()->acquire(session, Side::kTarget)) << session;
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(FileArbiterTest, StorageThatIsGoneIsUnknown) {
  const std::unique_ptr<Arbiter> one = arbiter();
  std::filesystem::remove_all(folder_.path());
  const Result<bool> granted = one->acquire(kSession, Side::kSource);
  ASSERT_FALSE(granted);
  EXPECT_EQ(granted.error().code, ErrorCode::kIo);
  EXPECT_FALSE(granted.error().remedy.empty());
  const auto none = make_file_arbiter(folder_.path());
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace migrate
