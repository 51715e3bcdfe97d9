// The engine on a link that fails at every byte.
#include <gtest/gtest.h>

#include "tests/session/engine/engine_run.hpp"

namespace migrate::testing {
namespace {

using test::Direction;
using test::Fault;
using test::InFlight;
using test::LinkPlan;

// What a busy machine may need where a calm one needs 1.
constexpr int kUnhurried = 20;

// A migration small enough to break everywhere: 12 pages, two rounds. Its time limits are as brief
// as what is broken on purpose is to be noticed soon, or so many times that.
RunSpec tiny(int times = 1) {
  RunSpec spec;
  spec.regions = {{kLow, {{0}, 12}, Backing::kAnonymous}};
  spec.fill = [](FakeSource& guest) {
    for (std::uint64_t page = 0; page < 12; page += 2) guest.write(kLow, {page}, 7);
  };
  auto step = std::make_shared<int>(0);
  spec.source.writes = [step](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "collect" && (*step)++ == 1) guest.write(kLow, {3}, 5);
  };
  spec.source.state_bytes = spec.target.state_bytes = 40;
  spec.outgoing.hello_timeout = spec.incoming.hello_timeout =
      std::chrono::milliseconds(150) * times;
  spec.outgoing.peer_timeout = spec.incoming.peer_timeout = std::chrono::milliseconds(150) * times;
  spec.outgoing.ask_window = std::chrono::milliseconds(300) * times;
  spec.incoming.ask_window = std::chrono::milliseconds(50) * times;
  spec.incoming.lease = std::chrono::milliseconds(60) * times;
  return spec;
}

std::vector<test::LaneBytes> clean_bytes() {
  Migration run(tiny(kUnhurried));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  return run.network->bytes();
}

/// The outcome at the source.
Outcome run_with(const LinkPlan& plan, int times) {
  RunSpec spec = tiny(times);
  spec.plan = plan;
  Migration run(std::move(spec));
  expect_one_owner(run);
  EXPECT_TRUE(times == 1 || run.out.outcome != Outcome::kUncertain) << run.text();
  return run.out.outcome;
}

/// A link that comes back tells: nothing stays uncertain, once there was time to ask.
void run_with(const LinkPlan& plan) {
  if (run_with(plan, 1) == Outcome::kUncertain) run_with(plan, kUnhurried);
}

class CutAtEveryByte : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Engine, CutAtEveryByte, ::testing::Range(0, 8));

TEST_P(CutAtEveryByte, OfTheControlLane) {
  const auto clean = clean_bytes();
  for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
    const std::uint64_t bytes = clean[0].in(direction);
    for (std::uint64_t at = static_cast<std::uint64_t>(GetParam()); at <= bytes;
         at += 8 * kCutStride) {
      const InFlight in_flight = at % 16 < 8 ? InFlight::kLost : InFlight::kDelivered;
      LinkPlan plan;
      plan.faults = {Fault::cut(0, direction, at, in_flight, test::Scope::kLink)};
      run_with(plan);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(EngineFaults, ACutAtASampleOfTheBulkLanes) {
  const auto clean = clean_bytes();
  for (std::size_t lane = 1; lane < clean.size(); ++lane) {
    const std::uint64_t bytes = clean[lane].in(Direction::kToTarget);
    for (std::uint64_t at = 0; at <= bytes; at += 1 + bytes / 60) {
      LinkPlan plan;
      plan.faults = {Fault::cut(lane, Direction::kToTarget, at)};
      run_with(plan);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(EngineFaults, AFlippedBitNeverArrivesUnnoticed) {
  const auto clean = clean_bytes();
  for (std::size_t lane = 0; lane < clean.size(); ++lane) {
    for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
      const std::uint64_t bytes = clean[lane].in(direction);
      for (std::uint64_t at = 0; at < bytes; at += 1 + bytes / 50) {
        LinkPlan plan;
        plan.faults = {Fault::flip(lane, direction, at, static_cast<unsigned>(at % 8))};
        run_with(plan);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(EngineFaults, SeededTroubleOfEveryKind) {
  const auto clean = clean_bytes();
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    RunSpec spec = tiny();
    spec.plan = test::seeded_plan(seed, clean);
    Migration run(std::move(spec));
    expect_one_owner(run);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(EngineFaults, ALinkThatStaysAwayAfterCommitLeavesTheGuestPausedAndUncertain) {
  RunSpec spec = tiny();
  // The target's start cuts the link before STARTED can leave, and no connect works any more.
  Migration* raw = nullptr;
  spec.target.hook = [&raw](const char* where) {
    if (std::string_view(where) != "start") return;
    raw->network->refuse_connections();
    raw->network->cut_all();
  };
  alignas(Migration) static std::byte storage[sizeof(Migration)];
  raw = reinterpret_cast<Migration*>(storage);
  new (storage) Migration(std::move(spec));
  EXPECT_EQ(raw->out.outcome, Outcome::kUncertain) << raw->text();
  EXPECT_FALSE(raw->source().running());
  EXPECT_TRUE(raw->target().running());
  EXPECT_EQ(raw->world.running, 1);
  ASSERT_NE(raw->out.uncertain, nullptr);
  auto connector = raw->network->connector();
  Status forced = raw->out.uncertain->resume(*connector, false);
  EXPECT_FALSE(forced);
  EXPECT_EQ(raw->world.running, 1);
  raw->~Migration();
}

TEST(EngineFaults, CancelAtEachControlByteLeavesOneRunner) {
  const auto clean = clean_bytes();
  const std::uint64_t bytes = clean[0].in(Direction::kToTarget);
  for (std::uint64_t at = 0; at < bytes; at += 1 + bytes / 80) {
    RunSpec spec = tiny();
    Outgoing* outgoing = nullptr;
    spec.ready = [&](Outgoing& out, Incoming&) { outgoing = &out; };
    std::atomic<int> accepted{-1};
    spec.plan.faults = {
        Fault::when(0, Direction::kToTarget, at, [&] { accepted = outgoing->cancel() ? 1 : 0; })};
    Migration run(std::move(spec));
    expect_one_owner(run);
    if (accepted == 1) {
      EXPECT_EQ(run.out.outcome, Outcome::kCancelled) << run.text();
    } else if (accepted == 0) {
      EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
    }
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(EngineFaults, CancelAtTheTargetLeavesOneRunner) {
  const auto clean = clean_bytes();
  const std::uint64_t bytes = clean[0].in(Direction::kToSource);
  for (std::uint64_t at = 0; at < bytes; at += 1 + bytes / 40) {
    RunSpec spec = tiny();
    Incoming* incoming = nullptr;
    spec.ready = [&](Outgoing&, Incoming& in) { incoming = &in; };
    spec.plan.faults = {
        Fault::when(0, Direction::kToSource, at, [&] { static_cast<void>(incoming->cancel()); })};
    Migration run(std::move(spec));
    expect_one_owner(run);
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace migrate::testing
