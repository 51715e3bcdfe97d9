// The hard limit of the downtime: switchovers that are given up, and what comes after them.
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "tests/session/engine/engine_run.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using test::Direction;
using test::Fault;
using test::InFlight;
using test::LinkPlan;

constexpr int kShards = 8;

/// A migration whose first switchovers meet a target, or a link, that hangs until the guest goes on
/// at the source: so the guest went on while it hung.
struct Stalled {
  RunSpec spec;
  Migration* run = nullptr;
  std::atomic<int> stalls_left{1};

  Stalled() {
    spec.outgoing.downtime_hard = milliseconds(200);
    spec.outgoing.max_attempts = 1'000;
    spec.outgoing.verify = VerifyMode::kFull;
    // What hangs here is let go by the guest and by nothing else.
    spec.outgoing.peer_timeout = spec.incoming.peer_timeout = milliseconds(20'000);
    spec.incoming.lease = milliseconds(20'000);
    spec.watch_run = [this](Migration& migration) { run = &migration; };
  }
  Stalled(const Stalled&) = delete;
  Stalled& operator=(const Stalled&) = delete;

  bool takes_one() {
    int left = stalls_left.load();
    while (left > 0 && !stalls_left.compare_exchange_weak(left, left - 1)) {
    }
    return left > 0;
  }

  /// The target hangs in `where`.
  void hang_target(const char* where) {
    spec.target.hook = [this, where](const char* at) {
      if (std::string_view(at) != where || !takes_one()) return;
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (run->world.running == 0 && std::chrono::steady_clock::now() < give_up) {
        std::this_thread::sleep_for(milliseconds(1));
      }
      EXPECT_EQ(run->world.running, 1) << "the guest still stands";
    };
  }

  /// These lanes hang from save_state() on.
  void stall_lanes(std::vector<std::size_t> lanes) {
    spec.source.writes = [this, lanes](FakeSource& guest, const char* where) {
      write_more(guest, where);
      if (std::string_view(where) == "resume") run->network->release_all();
      // The first is the rehearsal's.
      if (std::string_view(where) != "save" || guest.pauses() < 2 || !takes_one()) return;
      for (const std::size_t lane : lanes) run->network->stall(lane);
    };
  }

  /// Something is left for each switchover, and for what follows it.
  static void write_more(FakeSource& guest, const char* where) {
    if (std::string_view(where) == "save") {
      guest.write_as_device(kLow, {9}, static_cast<std::uint8_t>(50 + guest.pauses()));
      return;
    }
    if (std::string_view(where) != "resume") return;
    for (std::uint64_t page = 2; page < 60; page += 5) guest.write(kLow, {page}, 99);
    guest.write_zeros(kLow, {3});
  }
};

void expect_done_after(Migration& run, std::size_t failed) {
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  const Report& report = run.out.report;
  EXPECT_GE(report.failed_attempts.size(), failed);
  EXPECT_EQ(report.attempts, report.failed_attempts.size() + 1);
  for (const FailedAttempt& attempt : report.failed_attempts) {
    EXPECT_GE(attempt.stood_ms, 198) << "it was given up before its time";
    EXPECT_GE(attempt.cost_ms, attempt.stood_ms);
    EXPECT_FALSE(attempt.phase.empty());
  }
  EXPECT_EQ(report.integrity.digest, "equal");
  EXPECT_EQ(run.in.report.integrity.full, "equal");
  EXPECT_TRUE(run.bytes_at.contains("attempt-abandoned"));
}

TEST(EngineAttempts, ATargetThatHangsWhileItLoadsCostsTheGuestNoMoreThanTheLimit) {
  Stalled stalled;
  stalled.spec.source.writes = &Stalled::write_more;
  stalled.hang_target("load");
  Migration run(std::move(stalled.spec));
  expect_done_after(run, 1);
  EXPECT_EQ(run.out.report.failed_attempts.front().phase, "handover");
}

TEST(EngineAttempts, ATargetThatHangsWhileItTakesTheLocks) {
  Stalled stalled;
  stalled.spec.source.writes = &Stalled::write_more;
  stalled.hang_target("acquire");
  Migration run(std::move(stalled.spec));
  expect_done_after(run, 1);
}

TEST(EngineAttempts, AControlLaneThatNobodyReads) {
  Stalled stalled;
  stalled.stall_lanes({0});
  Migration run(std::move(stalled.spec));
  expect_done_after(run, 1);
}

TEST(EngineAttempts, ALargeStateThatDoesNotFitTheControlLane) {
  Stalled stalled;
  stalled.spec.source.state_bytes = stalled.spec.target.state_bytes = 900u << 10;
  stalled.stall_lanes({0});
  Migration run(std::move(stalled.spec));
  expect_done_after(run, 1);
}

TEST(EngineAttempts, ABulkLaneThatNobodyReads) {
  Stalled stalled;
  stalled.spec.outgoing.verify = VerifyMode::kDigest;
  stalled.stall_lanes({1});
  Migration run(std::move(stalled.spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_GE(run.out.report.failed_attempts.size(), 1u);
}

TEST(EngineAttempts, AllLanesAtOnceWithMorePagesThanTheLinkHolds) {
  Stalled stalled;
  stalled.spec.regions = {{kLow, {{0}, 4096}, Backing::kAnonymous}};
  stalled.spec.plan.window_bytes = 64 << 10;
  stalled.spec.outgoing.max_downtime = milliseconds(1'000);
  stalled.spec.outgoing.downtime_hard = milliseconds(200);
  stalled.spec.fill = [](FakeSource& guest) { guest.write(kLow, {1}, 1); };
  stalled.spec.source.writes = [&stalled](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "resume") stalled.run->network->release_all();
    if (std::string_view(where) == "collect" && stalled.stalls_left > 0 && guest.running()) {
      for (std::uint64_t page = 0; page < 3'000; ++page) guest.write(kLow, {page}, 33);
    }
    if (std::string_view(where) == "save" && guest.pauses() > 1 && stalled.takes_one()) {
      stalled.run->network->stall_all();
    }
  };
  Migration run(std::move(stalled.spec));
  expect_done_after(run, 1);
}

TEST(EngineAttempts, AReadyThatIsHeldBack) {
  Stalled stalled;
  stalled.spec.target.hook = [&stalled](const char* where) {
    // READY cannot leave; the source's ABORT and its question for the locks let it.
    if (std::string_view(where) == "acquire" && stalled.takes_one()) stalled.run->network->stall(0);
  };
  stalled.spec.source.writes = [&stalled](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "reclaim") stalled.run->network->release_all();
    Stalled::write_more(guest, where);
  };
  Migration run(std::move(stalled.spec));
  expect_done_after(run, 1);
}

TEST(EngineAttempts, WhatLoadingHasWrittenComesAgain) {
  Stalled stalled;
  stalled.spec.source.writes = &Stalled::write_more;
  stalled.hang_target("acquire");
  // A page that came, one that is a hole and one that nobody writes again.
  stalled.spec.target.scribble = [](FakeMemory& memory, int loads) {
    if (loads > 0) return;
    for (const std::size_t page : {9, 1, 30}) {
      std::memset(memory.bytes(kLow).data() + page * kPageSize + 8, 0xE5, 100);
    }
  };
  Migration run(std::move(stalled.spec));
  expect_done_after(run, 1);
}

TEST(EngineAttempts, ATargetThatAlwaysHangsEndsTheMigrationAndTheGuestRunsOn) {
  Stalled stalled;
  stalled.spec.outgoing.downtime_hard = milliseconds(20);
  stalled.spec.outgoing.max_attempts = 3;
  stalled.stalls_left = 1'000;
  stalled.hang_target("load");
  Migration run(std::move(stalled.spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kNotConverging);
  EXPECT_EQ(run.out.report.failed_attempts.size(), 3u);
  EXPECT_TRUE(run.source().running());
  EXPECT_EQ(run.world.resumed, 4);  // Once after the rehearsal.
}

TEST(EngineAttempts, APausedGuestHasNoDowntimeToLimit) {
  Stalled stalled;
  stalled.spec.source.run_state = RunState::kPaused;
  // Less than what is expected of any switchover.
  stalled.spec.outgoing.downtime_hard = milliseconds(1);
  stalled.spec.target.hook = [](const char* where) {
    if (std::string_view(where) == "load") std::this_thread::sleep_for(milliseconds(60));
  };
  Migration run(std::move(stalled.spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_TRUE(run.out.report.failed_attempts.empty());
}

TEST(EngineAttempts, StopCopyHasNoRoundsToGoOnWith) {
  Stalled stalled;
  stalled.spec.outgoing.strategy = Strategy::kStopCopy;
  Migration run(std::move(stalled.spec));
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(run.out.report.error->remedy.empty());
  EXPECT_TRUE(run.source().running());
}

TEST(EngineAttempts, ACancelWhileTheTargetHangs) {
  Stalled stalled;
  Outgoing* outgoing = nullptr;
  stalled.spec.ready = [&](Outgoing& out, Incoming&) { outgoing = &out; };
  stalled.spec.source.writes = [&](FakeSource&, const char* where) {
    if (std::string_view(where) != "resume") return;
    EXPECT_TRUE(outgoing->cancel());
  };
  stalled.hang_target("load");
  Migration run(std::move(stalled.spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kCancelled) << run.text();
}

// 12 pages, a first attempt that is given up while the target loads, and a second.
struct Tiny : Stalled {
  Tiny() {
    spec.regions = {{kLow, {{0}, 12}, Backing::kAnonymous}};
    spec.fill = [](FakeSource& guest) {
      for (std::uint64_t page = 0; page < 12; page += 2) guest.write(kLow, {page}, 7);
    };
    spec.source.state_bytes = spec.target.state_bytes = 40;
    spec.source.writes = [](FakeSource& guest, const char* where) {
      if (std::string_view(where) == "resume") guest.write(kLow, {3}, 5);
    };
    spec.target.scribble = [](FakeMemory& memory, int loads) {
      if (loads == 0) std::memset(memory.bytes(kLow).data() + 4 * kPageSize, 0xE5, 100);
    };
    spec.outgoing.downtime_hard = milliseconds(10);
    spec.outgoing.peer_timeout = spec.incoming.peer_timeout = milliseconds(1'000);
    spec.outgoing.ask_window = milliseconds(300);
    spec.incoming.ask_window = milliseconds(50);
    spec.incoming.lease = milliseconds(60);
    hang_target("load");
  }
};

std::vector<test::LaneBytes> clean_bytes() {
  Tiny tiny;
  Migration run(std::move(tiny.spec));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  return run.network->bytes();
}

class AttemptCutAtEveryByte : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Engine, AttemptCutAtEveryByte, ::testing::Range(0, kShards));

TEST_P(AttemptCutAtEveryByte, OfTheControlLane) {
  const auto clean = clean_bytes();
  for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
    const std::uint64_t bytes = clean[0].in(direction);
    for (std::uint64_t at = static_cast<std::uint64_t>(GetParam()); at <= bytes;
         at += kShards * kCutStride) {
      Tiny tiny;
      const InFlight in_flight = at % 16 < 8 ? InFlight::kLost : InFlight::kDelivered;
      tiny.spec.plan.faults = {Fault::cut(0, direction, at, in_flight, test::Scope::kLink)};
      Migration run(std::move(tiny.spec));
      expect_one_owner(run);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(EngineAttempts, CutsAtASampleOfTheBulkLanesThatAreMended) {
  const auto clean = clean_bytes();
  for (std::size_t lane = 1; lane < clean.size(); ++lane) {
    const std::uint64_t bytes = clean[lane].in(Direction::kToTarget);
    for (std::uint64_t at = 0; at <= bytes; at += 1 + bytes / 30) {
      Tiny tiny;
      tiny.spec.outgoing.reconnect = milliseconds(20'000);
      tiny.spec.plan.faults = {Fault::cut(lane, Direction::kToTarget, at)};
      Migration run(std::move(tiny.spec));
      expect_one_owner(run);
      EXPECT_NE(run.in.outcome, Outcome::kCancelled) << "it waits for who has given up";
      if (::testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace migrate::testing
