// Post-copy over links that are lost again and again, or for good, while the guest runs at the
// target.
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <random>
#include <set>

#include "tests/session/engine/lazy_guest.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::Direction;
using test::Fault;
using Memory = Incoming::Host::Memory;

constexpr std::uint64_t kMiB = 1 << 20;

std::uint8_t filling(std::uint64_t page) { return static_cast<std::uint8_t>(1 + page % 250); }

/// A guest without a page of zeros, so that what is not there did not come.
RunSpec full(std::uint64_t pages) {
  RunSpec spec;
  spec.regions = {{kLow, {{0}, pages}, Backing::kAnonymous}};
  spec.fill = [pages](FakeSource& guest) {
    for (std::uint64_t page = 0; page < pages; ++page) guest.write(kLow, {page}, filling(page));
  };
  spec.outgoing.strategy = Strategy::kPostcopy;
  spec.outgoing.reconnect = seconds(20);
  spec.outgoing.peer_timeout = spec.incoming.peer_timeout = seconds(20);
  return spec;
}

/// The guest writes what it has read, in random order, and the link is lost before every one of the
/// first pages that it touches: what it wrote stays, and all else is what the source had.
class ManyCuts : public ::testing::TestWithParam<std::uint16_t> {};
INSTANTIATE_TEST_SUITE_P(Engine, ManyCuts, ::testing::Values(1, 4));

TEST_P(ManyCuts, WhatTheGuestWroteStaysAndAllElseArrives) {
  constexpr std::uint64_t kPages = 1500;
  constexpr int kCuts = 50;
  std::vector<std::uint8_t> expected(kPages);
  for (std::uint64_t page = 0; page < kPages; ++page) expected[page] = filling(page);
  LazyGuest guest([&](LazyGuest& self) {
    std::mt19937 random(GetParam());
    std::vector<std::uint64_t> order(kPages);
    for (std::uint64_t page = 0; page < kPages; ++page) order[page] = page;
    std::shuffle(order.begin(), order.end(), random);
    for (std::size_t i = 0; i < order.size() * 9 / 10; ++i) {
      if (i < kCuts) {
        self.run().network->cut_all(i % 2 == 0 ? test::InFlight::kLost
                                               : test::InFlight::kDelivered);
      }
      const std::uint64_t page = order[i];
      EXPECT_EQ(self.read(kLow, page), expected[page]) << "page " << page;
      if (random() % 2 == 0) continue;
      // Also pages that were touched before, which nothing that comes late may undo.
      const std::uint64_t again = order[random() % (i + 1)];
      expected[again] = static_cast<std::uint8_t>(random() | 1);
      self.write(kLow, again, expected[again]);
    }
  });
  RunSpec spec = full(kPages);
  spec.outgoing.lanes = GetParam();
  spec.outgoing.push_bandwidth_bytes_per_s = kMiB;
  guest.use(spec);
  Migration run(std::move(spec));
  guest.join();
  ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  ASSERT_EQ(run.in.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.world.running_max, 1);
  EXPECT_EQ(run.world.released, 1);
  for (std::uint64_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(guest.read(kLow, page), expected[page]) << "page " << page;
  }
  // Of what is cut while it is opened only one is counted.
  EXPECT_GE(run.out.report.reconnects.count, 10u);
  EXPECT_GE(run.in.report.reconnects.count, 10u);
  EXPECT_EQ(run.out.report.integrity.digest, "equal");
  EXPECT_EQ(run.host_memory.back(), Memory::kComplete);
}

/// After some pages the link is gone and does not come back.
class LostForGood : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kPages = 300;

  void lose() {
    guest_ = std::make_unique<LazyGuest>([this](LazyGuest& self) {
      for (const std::uint64_t page : {7, 123, 299}) self.read(kLow, page);
      self.wait_until_served();
      self.run().network->refuse_connections();
      self.run().network->cut_all();
      waiting_ = true;
      for (std::uint64_t page = kPages; page-- > 0;) {
        awaited_ = page;
        self.read(kLow, page);
      }
      waiting_ = false;
    });
    RunSpec spec = full(kPages);
    spec.outgoing.reconnect = milliseconds(300);
    spec.outgoing.ask_window = spec.incoming.ask_window = milliseconds(100);
    // So little that some is missing still, however long it takes until the link is cut.
    spec.outgoing.push_bandwidth_bytes_per_s = 4 << 10;
    guest_->use(spec);
    run_ = std::make_unique<Migration>(std::move(spec));
  }

  std::atomic<bool> waiting_{false};
  std::atomic<std::uint64_t> awaited_{0};
  std::unique_ptr<Migration> run_;
  std::unique_ptr<LazyGuest> guest_;  // Ends before the memory goes.
};

TEST_F(LostForGood, TheTargetNamesWhatItLacksAndWhoTouchesThatWaits) {
  lose();
  Migration& run = *run_;
  ASSERT_EQ(run.in.outcome, Outcome::kLost) << run.text();
  ASSERT_TRUE(run.in.report.error.has_value());
  EXPECT_EQ(run.in.report.error->code, ErrorCode::kGuestLost);
  EXPECT_EQ(run.in.report.error->phase, Phase::kPostcopy);
  EXPECT_EQ(run.host_memory,
            (std::vector<Memory>{Memory::kFollows, Memory::kWaits, Memory::kLost}));
  EXPECT_EQ(run.world.running_max, 1);

  std::vector<std::string> ranges;
  std::uint64_t missing = 0;
  for (std::uint64_t page = 0; page < kPages; ++page) {
    if (guest_->has(kLow, page)) {
      EXPECT_EQ(guest_->read(kLow, page), filling(page));
      continue;
    }
    ++missing;
    const std::uint64_t first = page;
    while (page + 1 < kPages && !guest_->has(kLow, page + 1)) ++page, ++missing;
    ranges.push_back(to_text(kLow) + " " + std::to_string(first) + "-" + std::to_string(page));
  }
  EXPECT_GT(missing, 0u);
  EXPECT_EQ(run.in.report.missing.pages, missing);
  EXPECT_EQ(run.in.report.missing.ranges, ranges);

  ASSERT_NE(run.in.waiting_memory, nullptr);
  EXPECT_TRUE(waiting_);
  EXPECT_FALSE(guest_->has(kLow, awaited_)) << "it got something that was not its memory";
  run.in.waiting_memory.reset();
  guest_->join();
  EXPECT_FALSE(waiting_);
}

TEST_F(LostForGood, TheSourceKeepsThePagesThatItOwes) {
  lose();
  Migration& run = *run_;
  ASSERT_EQ(run.out.outcome, Outcome::kUncertain) << run.text();
  ASSERT_NE(run.out.uncertain, nullptr);
  EXPECT_NE(run.out.report.error->message.find("only here"), std::string::npos) << run.text();
  EXPECT_FALSE(run.source().running());
  EXPECT_EQ(run.world.released, 0);
  // Neither when nobody can be asked nor when the target can.
  for (const bool reachable : {false, true}) {
    if (reachable) run.network->allow_connections();
    auto connector = run.network->connector();
    for (const bool force : {false, true}) {
      EXPECT_FALSE(run.out.uncertain->resume(*connector, force));
    }
    EXPECT_FALSE(run.out.uncertain->release(*connector, false));
    EXPECT_FALSE(run.source().running());
    EXPECT_EQ(run.world.released, 0);
  }
  auto connector = run.network->connector();
  EXPECT_TRUE(run.out.uncertain->release(*connector, true));
  EXPECT_EQ(run.world.released, 1);
  EXPECT_EQ(run.world.running_max, 1);
}

/// What is given back while memory follows, and what the target has of it at that moment.
class EarlyRelease : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kPages = 800;

  RunSpec spec() {
    RunSpec spec = full(kPages);
    spec.outgoing.lanes = 1;
    spec.outgoing.release_early = true;
    spec.outgoing.push_bandwidth_bytes_per_s = 4 * kMiB;
    spec.source.on_release = [this](PageRange range) {
      for (std::uint64_t i = 0; i < range.count; ++i) {
        const std::uint64_t page = range.first.number + i;
        EXPECT_TRUE(guest_->has(kLow, page)) << "page " << page << " was not there yet";
        EXPECT_TRUE(released_.insert(page).second) << "page " << page << " was released twice";
      }
    };
    return spec;
  }
  void expect_whole(Migration& run) {
    ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
    EXPECT_EQ(run.world.running_max, 1);
    for (std::uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(guest_->read(kLow, page), filling(page)) << "page " << page;
    }
    EXPECT_FALSE(released_.empty());
    EXPECT_EQ(run.source().released_pages(), released_.size());
  }

  std::set<std::uint64_t> released_;
  std::unique_ptr<LazyGuest> guest_;
};

TEST_F(EarlyRelease, NoPageGoesBeforeTheTargetHasIt) {
  guest_ = std::make_unique<LazyGuest>([](LazyGuest& self) {
    for (std::uint64_t page = 0; page < kPages; page += 50) self.read(kLow, page);
    self.run().network->cut_all();
    self.read(kLow, kPages - 1);
  });
  RunSpec early = spec();
  guest_->use(early);
  Migration run(std::move(early));
  guest_->join();
  expect_whole(run);
}

/// Hybrid: what went in rounds is nothing that the guest misses.
TEST_F(EarlyRelease, OnlyWhatFollowedIsReleasedPageByPage) {
  guest_ = std::make_unique<LazyGuest>([](LazyGuest&) {});
  RunSpec early = spec();
  early.outgoing.strategy = Strategy::kHybrid;
  early.outgoing.max_downtime = std::chrono::microseconds(1);
  early.source.writes = [](FakeSource& source, const char* where) {
    if (std::string_view(where) != "collect") return;
    for (std::uint64_t page = 0; page < 600; ++page) source.write(kLow, {page}, filling(page));
  };
  guest_->use(early);
  Migration run(std::move(early));
  guest_->join();
  expect_whole(run);
  EXPECT_LT(*released_.rbegin(), 600u);
}

/// The guest waits for a page that comes by itself, and is given back, before its demand is read.
TEST_F(EarlyRelease, ADemandThatComesLateChangesNothing) {
  constexpr std::uint64_t kPage = 120;
  std::atomic<bool> waited{false};
  guest_ = std::make_unique<LazyGuest>([&](LazyGuest& self) {
    waited = !self.has(kLow, kPage);
    self.read(kLow, kPage);
  });
  RunSpec late = spec();
  late.outgoing.push_bandwidth_bytes_per_s = 2 * kMiB;
  constexpr std::uint64_t kJoined = 26;  // What the urgent lane carries that way before.
  late.plan.faults = {Fault::late(2, Direction::kToSource, kJoined, milliseconds(600))};
  guest_->use(late);
  Migration run(std::move(late));
  guest_->join();
  expect_whole(run);
  // Else it was here before anybody could ask.
  EXPECT_EQ(run.out.report.pages.demand, waited ? 1u : 0u);
}

class HardLimit : public ::testing::TestWithParam<Strategy> {};
INSTANTIATE_TEST_SUITE_P(Engine, HardLimit,
                         ::testing::Values(Strategy::kPostcopy, Strategy::kHybrid));

/// No rounds are left to go on with: it fails once, and the guest has stood no longer.
TEST_P(HardLimit, ATargetThatHangsGivesTheGuestBackAndIsNotTriedAgain) {
  RunSpec spec = full(200);
  spec.outgoing.strategy = GetParam();
  spec.outgoing.downtime_hard = milliseconds(150);
  spec.outgoing.max_downtime =
      std::chrono::microseconds(GetParam() == Strategy::kHybrid ? 1 : 1000);
  World* world = nullptr;
  spec.watch_run = [&](Migration& run) { world = &run.world; };
  spec.target.hook = [&](const char* where) {
    if (std::string_view(where) != "load") return;
    const int before = world->resumed;  // By the rehearsal.
    const auto until = std::chrono::steady_clock::now() + seconds(20);
    while (world->resumed == before && std::chrono::steady_clock::now() < until) {
      std::this_thread::yield();
    }
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  EXPECT_EQ(run.out.report.failed_attempts.size(), 1u) << run.text();
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kTimeout) << run.text();
  EXPECT_EQ(run.world.resumed, GetParam() == Strategy::kHybrid ? 2 : 1);
  EXPECT_TRUE(run.target().discarded());
}

}  // namespace
}  // namespace migrate::testing
