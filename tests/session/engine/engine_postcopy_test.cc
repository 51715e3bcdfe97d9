// Post-copy and hybrid in the whole engine, in one process: the target's memory is really missing.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>

#include "tests/session/engine/engine_run.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr GuestPage high(std::uint64_t page) { return {(1u << 20) + page}; }

/// A guest at the target that reads all of its memory as soon as it runs, from the last page.
class Reader {
 public:
  ~Reader() { join(); }
  void use(RunSpec& spec) {
    spec.watch_run = [this](Migration& run) { run_ = &run; };
    spec.target.hook = [this](const char* where) {
      if (std::string_view(where) == "start") thread_ = std::thread([this] { read(); });
    };
    spec.target.on_target = [this](FakeTarget& target) { target_ = &target; };
  }
  void join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  void read() {
    for (const RegionId& region : {kHigh, kLow}) {
      const auto bytes = target_->memory().bytes(region);
      for (std::size_t at = bytes.size(); at > 0; at -= kPageSize) {
        volatile const std::byte* const page = bytes.data() + at - kPageSize;
        sum_ += std::to_integer<unsigned>(page[64]);
      }
    }
  }
  Migration* run_ = nullptr;
  FakeTarget* target_ = nullptr;
  unsigned sum_ = 0;
  std::thread thread_;
};

struct Mode {
  Strategy strategy;
  TrackerStyle style;
  bool source_mapped;
  VerifyMode verify;
};

class LazyModes : public ::testing::TestWithParam<Mode> {
 protected:
  static RunSpec spec() {
    const Mode mode = GetParam();
    RunSpec spec;
    spec.outgoing.strategy = mode.strategy;
    spec.outgoing.verify = mode.verify;
    spec.source.style = mode.style;
    spec.source.mapped = mode.source_mapped;
    return spec;
  }
};

std::vector<Mode> modes() {
  std::vector<Mode> all;
  for (const Strategy strategy : {Strategy::kPostcopy, Strategy::kHybrid}) {
    for (const TrackerStyle style : {TrackerStyle::kManual, TrackerStyle::kRearmInCollect}) {
      for (const bool mapped : {true, false}) {
        for (const VerifyMode verify : {VerifyMode::kDigest, VerifyMode::kFull}) {
          all.push_back({strategy, style, mapped, verify});
        }
      }
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Engine, LazyModes, ::testing::ValuesIn(modes()));

/// Hybrid that has to end in post-copy: no downtime is short enough.
void insist(RunSpec& spec) { spec.outgoing.max_downtime = std::chrono::microseconds(1); }

void expect_lazy(Migration& run, Strategy strategy) {
  expect_one_owner(run);
  ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.out.report.strategy, to_string(strategy));
  EXPECT_EQ(run.in.report.strategy, to_string(strategy));
  EXPECT_EQ(run.out.report.integrity.digest, "equal");
  using Memory = Incoming::Host::Memory;
  ASSERT_GE(run.host_memory.size(), 2u);
  EXPECT_EQ(run.host_memory.front(), Memory::kFollows);
  EXPECT_EQ(run.host_memory.back(), Memory::kComplete);
}

TEST_P(LazyModes, AnIdleGuestArrivesEqual) {
  RunSpec idle = spec();
  insist(idle);
  Migration run(std::move(idle));
  expect_lazy(run, GetParam().strategy);
  if (GetParam().strategy == Strategy::kPostcopy) {
    EXPECT_GE(run.out.report.pages.pushed + run.out.report.pages.demand, 22u + 34u);
  }
}

TEST_P(LazyModes, AGuestThatReadsAllAtOnceArrivesEqual) {
  RunSpec reading = spec();
  insist(reading);
  Reader reader;
  reader.use(reading);
  reading.source.writes = [](FakeSource& guest, const char* where) {
    if (std::string_view(where) != "collect") return;
    for (std::uint64_t page = 0; page < 64; page += 2) guest.write(kLow, {page}, 33);
  };
  Migration run(std::move(reading));
  reader.join();
  expect_lazy(run, GetParam().strategy);
}

// Saving the state writes to memory that was announced as missing, and to memory that was not.
TEST_P(LazyModes, WhatIsWrittenAtTheLastMomentArrives) {
  RunSpec writing = spec();
  insist(writing);
  auto value = std::make_shared<std::uint8_t>(1);
  writing.source.writes = [value](FakeSource& guest, const char* where) {
    ++*value;
    if (std::string_view(where) == "save") {
      for (const std::uint64_t page : {1, 3, 4, 63}) guest.write_as_device(kLow, {page}, *value);
      return;
    }
    for (const std::uint64_t page : {0, 3, 50}) guest.write(kLow, {page}, *value);
    guest.write_zeros(kHigh, high(6));
  };
  Migration run(std::move(writing));
  expect_lazy(run, GetParam().strategy);
}

TEST_P(LazyModes, APausedGuestArrivesPaused) {
  RunSpec paused = spec();
  insist(paused);
  paused.source.run_state = RunState::kPaused;
  Migration run(std::move(paused));
  expect_lazy(run, GetParam().strategy);
  EXPECT_FALSE(run.out.report.downtime_ms.has_value());
}

/// Loading state touches memory that is missing: it is served before anybody has committed.
TEST_P(LazyModes, LoadingStateMayTouchWhatIsMissing) {
  RunSpec touching = spec();
  insist(touching);
  unsigned seen = 0;
  touching.target.scribble = [&seen](FakeMemory& memory, int) {
    const auto bytes = memory.bytes(kLow);
    for (std::size_t page = 0; page < 64; page += 3) {
      seen += std::to_integer<unsigned>(bytes[page * kPageSize]);
    }
  };
  Migration run(std::move(touching));
  expect_lazy(run, GetParam().strategy);
  EXPECT_EQ(seen, 22u * 7u) << "zeros were loaded from";
}

TEST_P(LazyModes, ATargetThatCannotLoadGivesTheGuestBack) {
  RunSpec failing = spec();
  insist(failing);
  failing.target.fail_load = ErrorCode::kIncompatible;
  Migration run(std::move(failing));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed);
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kIncompatible);
}

TEST_P(LazyModes, ATargetThatCannotStartGivesTheGuestBack) {
  RunSpec failing = spec();
  insist(failing);
  failing.target.fail_start = ErrorCode::kGuest;
  Migration run(std::move(failing));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
}

TEST(EnginePostcopy, MemoryGoesBackPageByPageWhereAsked) {
  RunSpec spec;
  spec.outgoing.strategy = Strategy::kPostcopy;
  spec.outgoing.release_early = true;
  spec.plan.latency = milliseconds(5);
  Migration run(std::move(spec));
  ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.world.running_max, 1);
  EXPECT_TRUE(run.target().started());
}

TEST(EnginePostcopy, HybridKeepsToRoundsWhereTheyKeepTheLimit) {
  RunSpec spec;
  spec.outgoing.strategy = Strategy::kHybrid;
  spec.outgoing.max_downtime = seconds(10);
  Migration run(std::move(spec));
  expect_one_owner(run);
  ASSERT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_EQ(run.out.report.strategy, "precopy");
  EXPECT_TRUE(run.host_memory.empty());
}

TEST(EnginePostcopy, MemoryThatIsNotMappedHereIsRefused) {
  RunSpec spec;
  spec.outgoing.strategy = Strategy::kPostcopy;
  spec.target.mapped = false;
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_EQ(run.out.outcome, Outcome::kRefused) << run.text();
  EXPECT_EQ(run.out.report.error->code, ErrorCode::kUnsupported);
}

/// Nothing is enough for pre-copy: the ladder takes it to post-copy.
TEST(EnginePostcopy, AStallIsEndedByPostcopy) {
  RunSpec spec;
  spec.outgoing.strategy = Strategy::kPrecopy;
  spec.outgoing.on_stall = {{StallStep::Kind::kPostcopy}, {StallStep::Kind::kAbort}};
  insist(spec);
  spec.source.writes = [](FakeSource& guest, const char* where) {
    if (std::string_view(where) != "collect") return;
    for (std::uint64_t page = 0; page < 64; ++page) guest.write(kLow, {page}, 3);
  };
  Migration run(std::move(spec));
  expect_lazy(run, Strategy::kHybrid);
}

}  // namespace
}  // namespace migrate::testing
