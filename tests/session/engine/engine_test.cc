// The engine end to end in one process, on a link that works.
#include <gtest/gtest.h>

#include <random>

#include "tests/session/engine/engine_run.hpp"

namespace migrate::testing {
namespace {

constexpr GuestPage high(std::uint64_t page) { return {(1u << 20) + page}; }

struct Mode {
  Strategy strategy;
  TrackerStyle style;
  bool source_mapped;
  bool target_mapped;
  VerifyMode verify;
  std::uint32_t lanes;
};

class EveryMode : public ::testing::TestWithParam<Mode> {
 protected:
  RunSpec spec() const {
    const Mode mode = GetParam();
    RunSpec spec;
    spec.outgoing.strategy = mode.strategy;
    spec.outgoing.verify = mode.verify;
    spec.outgoing.lanes = mode.lanes;
    spec.source.style = mode.style;
    spec.source.mapped = mode.source_mapped;
    spec.target.mapped = mode.target_mapped;
    return spec;
  }
};

std::vector<Mode> modes() {
  std::vector<Mode> all;
  for (const Strategy strategy : {Strategy::kStopCopy, Strategy::kPrecopy}) {
    for (const TrackerStyle style : {TrackerStyle::kManual, TrackerStyle::kRearmInCollect}) {
      for (const bool source_mapped : {true, false}) {
        for (const bool target_mapped : {true, false}) {
          for (const VerifyMode verify : {VerifyMode::kDigest, VerifyMode::kFull}) {
            all.push_back(
                {strategy, style, source_mapped, target_mapped, verify, source_mapped ? 2u : 1u});
          }
        }
      }
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Engine, EveryMode, ::testing::ValuesIn(modes()));

TEST(Engine, TheHostIsToldBeforeStartedLeavesAndTheNetworkOnceItHas) {
  RunSpec spec;
  std::uint64_t before = 0;
  Migration* running = nullptr;
  spec.target.hook = [&](const char* where) {
    if (std::string_view(where) != "start" || running == nullptr) return;
    EXPECT_TRUE(running->takeovers.empty()) << "the guest does not run yet";
    before = running->network->bytes()[0].in(test::Direction::kToSource);
  };
  spec.watch_run = [&](Migration& run) { running = &run; };
  Migration run(std::move(spec));
  ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  ASSERT_EQ(run.takeovers.size(), 1u);
  const ToldNetwork& told = run.takeovers.front();
  EXPECT_EQ(told.running, 1);
  EXPECT_EQ(told.host_started, 1);
  EXPECT_EQ(run.host_heard_at, before) << "STARTED had not left";
  EXPECT_GT(told.to_source, before) << "STARTED has left";
  EXPECT_EQ(told.session, run.out.report.session);
  EXPECT_EQ(told.guest, run.out.report.guest.name);
  EXPECT_NE(told.started_at, SteadyTime{});
}

TEST_P(EveryMode, AnIdleGuestArrivesEqualAndRuns) {
  Migration run(spec());
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.host_ready, 1);
  EXPECT_EQ(run.host_started, 1);
  EXPECT_EQ(run.out.report.integrity.digest, "equal");
  EXPECT_EQ(run.out.report.integrity.full,
            GetParam().verify == VerifyMode::kFull ? "equal" : "off");
  ASSERT_TRUE(run.out.report.downtime_ms.has_value());
}

TEST_P(EveryMode, APausedGuestArrivesPaused) {
  RunSpec paused = spec();
  paused.source.run_state = RunState::kPaused;
  Migration run(std::move(paused));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_FALSE(run.out.report.downtime_ms.has_value());
}

// Its pages leave straight from its memory; what saving its state writes to them comes after.
TEST_P(EveryMode, WhatSavingAPausedGuestWritesArrives) {
  RunSpec paused = spec();
  paused.source.run_state = RunState::kPaused;
  paused.source.writes = [](FakeSource& guest, const char* where) {
    if (std::string_view(where) != "save") return;
    for (const std::uint64_t page : {3, 5, 60}) guest.write_as_device(kLow, {page}, 77);
  };
  Migration run(std::move(paused));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
}

// What was written until the guest stood leaves in a round beside the saving of its state, what
// that writes after it.
TEST_P(EveryMode, WhatIsWrittenBeforeAndAfterMemoryHasSettledArrives) {
  RunSpec settling = spec();
  settling.source.settles = true;
  settling.source.writes = [](FakeSource& guest, const char* where) {
    const std::string_view now = where;
    if (now == "peek") guest.write(kLow, {7}, 70);
    const std::uint64_t first = now == "save" ? 3 : 4;
    if (now != "save" && now != "settled") return;
    for (const std::uint64_t page : {first, std::uint64_t{40}}) {
      guest.write_as_device(kLow, {page}, static_cast<std::uint8_t>(80 + first));
      guest.write_as_device(kHigh, high(page), static_cast<std::uint8_t>(90 + first));
    }
  };
  Migration run(std::move(settling));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
}

TEST(Engine, WhatWasWrittenLeavesOnceMemoryHasSettledAndNotAtTheEnd) {
  const auto pages_of_last_round = [](bool settles) {
    RunSpec spec;
    spec.source.settles = settles;
    spec.source.writes = [](FakeSource& guest, const char* where) {
      if (std::string_view(where) != "save") return;
      for (std::uint64_t page = 10; page < 30; ++page) guest.write_as_device(kLow, {page}, 5);
    };
    const Migration run(std::move(spec));
    EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
    return run.out.report.rounds.back().pages;
  };
  EXPECT_EQ(pages_of_last_round(true), 20u);
  EXPECT_NE(pages_of_last_round(false), 20u);
}

// Writes at every point where the engine lets the guest go on, pages that turn to zero and back
// among them.
TEST_P(EveryMode, AWriterAtEveryStepArrivesEqual) {
  for (unsigned seed = 0; seed < 5; ++seed) {
    SCOPED_TRACE(seed);
    RunSpec writing = spec();
    auto random = std::make_shared<std::mt19937>(seed);
    auto left = std::make_shared<int>(400);
    writing.source.writes = [random, left](FakeSource& guest, const char* where) {
      if (std::string_view(where) == "save") {
        guest.write_as_device(kLow, {5}, static_cast<std::uint8_t>((*random)()));
        return;
      }
      for (int i = 0; i < 20 && *left > 0; ++i, --*left) {
        const auto value = static_cast<std::uint8_t>((*random)() % 3 == 0 ? 0 : (*random)());
        (*random)() % 2 == 0 ? guest.write(kLow, {(*random)() % 64}, value)
                             : guest.write(kHigh, high((*random)() % 100), value);
      }
    };
    Migration run(std::move(writing));
    expect_one_owner(run);
    EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  }
}

TEST(Engine, DataThatTurnsToZeroArrivesAsZero) {
  RunSpec spec;
  auto step = std::make_shared<int>(0);
  spec.outgoing.max_downtime = std::chrono::microseconds(1);  // Rounds until the limit.
  spec.outgoing.max_rounds = 6;
  spec.outgoing.on_stall = {{StallStep::Kind::kAbort}};
  spec.outgoing.max_downtime = std::chrono::seconds(1);
  spec.source.writes = [step](FakeSource& guest, const char* where) {
    if (std::string_view(where) != "collect") return;
    switch ((*step)++) {
      case 1:
        guest.write_zeros(kLow, {0});
        guest.write(kLow, {1}, 3);
        break;  // DATA -> ZERO
      case 2:
        guest.write(kLow, {0}, 4);
        guest.write_zeros(kLow, {1});
        break;  // ZERO -> DATA
      default:
        break;
    }
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
}

TEST(Engine, RegionsThatComeAndGoArrive) {
  RunSpec spec;
  const Region extra{{0, 3, 0}, {{5000}, 70}, Backing::kAnonymous};
  auto step = std::make_shared<int>(0);
  spec.source.writes = [=](FakeSource& guest, const char* where) {
    if (std::string_view(where) != "collect") return;
    const int now = (*step)++;
    if (now == 1) {
      guest.memory().add(extra);
      guest.write(extra.id, {5003}, 8);
      guest.memory().remove(kLow);
    }
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.target().memory().regions().size(), 2u);
}

TEST(Engine, AWriteThatTheTrackerMissedAbortsBeforeCommit) {
  RunSpec spec;
  spec.outgoing.verify = VerifyMode::kFull;
  spec.source.writes = [](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "save") guest.corrupt(kLow, {3});
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed);
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kIntegrity) << run.text();
}

TEST(Engine, TheSampleFindsAMissedWriteWithoutFullVerification) {
  int found = 0;
  for (int i = 0; i < 5; ++i) {
    RunSpec spec;
    spec.source.writes = [](FakeSource& guest, const char* where) {
      if (std::string_view(where) != "save") return;
      for (std::uint64_t page = 0; page < 64; ++page) guest.corrupt(kLow, {page});
    };
    const Migration run(std::move(spec));
    // Otherwise memory is unequal: the sample is a chance, not a promise.
    if (run.out.outcome != Outcome::kFailed) continue;
    ++found;
    EXPECT_EQ(run.out.report.integrity.sampled, "unequal");
    EXPECT_EQ(run.world.running, 1);
  }
  EXPECT_GT(found, 0);
}

TEST(Engine, AGuestThatDirtiesTooFastIsThrottledThenGivenUp) {
  RunSpec spec;
  spec.outgoing.strategy = Strategy::kPrecopy;
  spec.outgoing.max_downtime = std::chrono::microseconds(1);
  spec.outgoing.max_rounds = 20;
  spec.outgoing.bandwidth_bytes_per_s = 8 << 20;  // What it writes takes 32 ms.
  spec.source.writes = [](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "save") return;
    static std::atomic<std::uint8_t> value{1};
    for (std::uint64_t page = 0; page < 64; ++page) guest.write(kLow, {page}, ++value);
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed);
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kNotConverging) << run.text();
  EXPECT_FALSE(run.out.report.error->remedy.empty());
  EXPECT_GT(run.source().throttle_max(), 0.5);
}

TEST(Engine, ATargetThatCannotTakeTheGuestRefusesBeforeItIsTouched) {
  for (const ErrorCode code : {ErrorCode::kIncompatible, ErrorCode::kNoMemory}) {
    RunSpec spec;
    spec.target.fail_prepare = code;
    Migration run(std::move(spec));
    expect_one_owner(run);
    EXPECT_EQ(run.out.outcome, Outcome::kRefused);
    EXPECT_EQ(run.in.outcome, Outcome::kRefused);
    EXPECT_EQ(run.out.report.error->code, code);
    EXPECT_EQ(run.out.report.error->side, Side::kTarget);
    EXPECT_EQ(run.source().pauses(), 0);
  }
}

TEST(Engine, ATakenNameIsRefused) {
  RunSpec spec;
  spec.on_described = [](const GuestDescription&) -> Status {
    return make_error(ErrorCode::kNameTaken, "a guest named fake runs here");
  };
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kRefused);
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kNameTaken);
}

TEST(Engine, EveryFailureOfTheTargetGivesTheGuestBack) {
  for (int which = 0; which < 3; ++which) {
    RunSpec spec;
    (which == 0   ? spec.target.fail_load
     : which == 1 ? spec.target.fail_acquire
                  : spec.target.fail_start) = ErrorCode::kGuest;
    Migration run(std::move(spec));
    SCOPED_TRACE(which);
    expect_one_owner(run);
    EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
    EXPECT_EQ(run.out.report.error->side, Side::kTarget) << run.text();
  }
}

TEST(Engine, EveryFailureOfTheSourceLeavesItRunning) {
  for (int which = 0; which < 3; ++which) {
    RunSpec spec;
    (which == 0   ? spec.source.fail_pause
     : which == 1 ? spec.source.fail_save
                  : spec.source.fail_collect) = ErrorCode::kGuest;
    Migration run(std::move(spec));
    SCOPED_TRACE(which);
    expect_one_owner(run);
    EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  }
}

TEST(Engine, AStartThatMayHaveHappenedIsNeverUndone) {
  RunSpec spec;
  spec.target.fail_start = ErrorCode::kGuestLost;
  Migration run(std::move(spec));
  EXPECT_EQ(run.in.outcome, Outcome::kLost) << run.text();
  EXPECT_FALSE(run.source().running());
  EXPECT_TRUE(run.out.outcome == Outcome::kLost || run.out.outcome == Outcome::kUncertain)
      << run.text();
}

TEST(Engine, AReclaimThatFailsKeepsTheGuestPausedAndSaysSo) {
  RunSpec spec;
  spec.source.fail_reclaim = ErrorCode::kIo;
  spec.target.fail_load = ErrorCode::kGuest;
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kUncertain) << run.text();
  EXPECT_FALSE(run.source().running());
  ASSERT_NE(run.out.uncertain, nullptr);
}

}  // namespace
}  // namespace migrate::testing
