// Post-copy on a link that fails at every byte: before COMMIT the guest is the source's as it was,
// and afterwards its memory comes all the same.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/session/engine/lazy_guest.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::Direction;
using test::Fault;
using test::InFlight;
using test::LinkPlan;
using test::Scope;

constexpr int kShards = 8;
constexpr std::uint64_t kPages = 12;

// Connections in the order in which they are made, with one bulk lane.
constexpr std::size_t kControl = 0, kBulk = 1, kUrgent = 2;
constexpr std::size_t kControlAgain = 3, kUrgentAgain = 5;

// Small enough to break everywhere: seven pages follow, one of which is written at the last moment.
RunSpec tiny(std::uint16_t lanes = 1) {
  RunSpec spec;
  spec.regions = {{kLow, {{0}, kPages}, Backing::kAnonymous}};
  spec.fill = [](FakeSource& guest) {
    for (std::uint64_t page = 0; page < kPages; page += 2) guest.write(kLow, {page}, 7);
  };
  spec.source.writes = [](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "save") guest.write_as_device(kLow, {3}, 5);
  };
  spec.source.state_bytes = spec.target.state_bytes = 40;
  spec.outgoing.strategy = Strategy::kPostcopy;
  spec.outgoing.lanes = lanes;
  spec.outgoing.reconnect = seconds(20);
  // What is broken on purpose is noticed at once, but a lane that does not come.
  spec.outgoing.hello_timeout = spec.incoming.hello_timeout = milliseconds(300);
  spec.outgoing.peer_timeout = spec.incoming.peer_timeout = seconds(20);
  spec.outgoing.ask_window = seconds(5);
  spec.incoming.ask_window = milliseconds(100);
  spec.incoming.lease = milliseconds(100);
  return spec;
}

/// Reads all of it as soon as it runs, from the end.
void read_all(LazyGuest& guest) {
  for (std::uint64_t page = kPages; page-- > 0;) {
    const unsigned wanted = page == 3 ? 5 : page % 2 == 0 ? 7 : 0;
    EXPECT_EQ(guest.read(kLow, page), wanted) << "page " << page;
  }
}

/// Bytes of each channel: all of them, before the guest was paused, and before what is different
/// with post-copy began.
struct Clean {
  std::vector<test::LaneBytes> all, before, setup;
  /// The first byte to break in.
  [[nodiscard]] std::uint64_t begin(std::size_t lane, Direction direction) const {
    return lane < setup.size() ? setup[lane].in(direction) + 1 : 0;
  }
};
Clean clean_run(LinkPlan plan = {}, std::uint16_t lanes = 1) {
  LazyGuest guest(read_all);
  RunSpec spec = tiny(lanes);
  spec.plan = std::move(plan);
  // Nothing is broken: however slow the machine is, this one has to be done.
  spec.outgoing.hello_timeout = spec.incoming.hello_timeout = seconds(20);
  spec.incoming.lease = seconds(20);
  guest.use(spec);
  Migration run(std::move(spec));
  guest.join();
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  Clean clean{run.network->bytes(), run.bytes_at["switchover"], run.bytes_at["postcopy"]};
  // One that failed has fewer channels; it is told above.
  clean.all.resize(std::max<std::size_t>(clean.all.size(), lanes + 2));
  clean.before.resize(std::max<std::size_t>(clean.before.size(), lanes + 2));
  return clean;
}

/// Done with equal memory, or failed before COMMIT, the source as it was. Whether it was done.
bool run_with(RunSpec spec) {
  LazyGuest guest(read_all);
  guest.use(spec);
  Migration run(std::move(spec));
  guest.join();
  expect_one_owner(run);
  EXPECT_TRUE(run.out.outcome == Outcome::kDone || run.out.outcome == Outcome::kFailed)
      << run.text();
  EXPECT_NE(run.in.outcome, Outcome::kLost) << run.text();
  if (run.out.outcome == Outcome::kDone) {
    EXPECT_EQ(run.out.report.integrity.digest, "equal");
    EXPECT_FALSE(run.host_memory.empty());
  }
  return run.out.outcome == Outcome::kDone;
}
bool run_with(LinkPlan plan) {
  RunSpec spec = tiny();
  spec.plan = std::move(plan);
  return run_with(std::move(spec));
}

InFlight in_flight(std::uint64_t at) {
  return at % 2 == 0 ? InFlight::kLost : InFlight::kDelivered;
}

class CutPostcopy : public ::testing::TestWithParam<int> {
 protected:
  [[nodiscard]] static bool mine(std::uint64_t at) {
    return at % kCutStride == 0 && at / 2 % kShards == static_cast<std::uint64_t>(GetParam());
  }
};
INSTANTIATE_TEST_SUITE_P(Engine, CutPostcopy, ::testing::Range(0, kShards));

TEST_P(CutPostcopy, AtEveryByteOfTheControlLane) {
  const Clean clean = clean_run();
  for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
    const std::uint64_t end = clean.all[kControl].in(direction);
    for (std::uint64_t at = clean.begin(kControl, direction); at <= end; ++at) {
      if (!mine(at)) continue;
      LinkPlan plan;
      plan.faults = {Fault::cut(kControl, direction, at, in_flight(at), Scope::kLink)};
      run_with(std::move(plan));
      if (HasFailure()) return;
    }
  }
}

TEST_P(CutPostcopy, AtEveryByteOfTheUrgentLane) {
  const Clean clean = clean_run();
  for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
    // A page's content is broken at a sample of its bytes.
    std::uint64_t step = 1;
    for (std::uint64_t at = 0; at <= clean.all[kUrgent].in(direction); at += step) {
      step = direction == Direction::kToTarget && at > 250 ? 61 : 1;
      if (!mine(at)) continue;
      LinkPlan plan;
      plan.faults = {Fault::cut(kUrgent, direction, at, in_flight(at),
                                at % 4 < 2 ? Scope::kLane : Scope::kLink)};
      const bool done = run_with(std::move(plan));
      // It joins before the guest is paused.
      EXPECT_TRUE(done || at <= clean.before[kUrgent].in(direction)) << at;
      if (HasFailure()) return;
    }
  }
}

/// Which page goes by which lane differs from run to run, but not what must come of it.
TEST_P(CutPostcopy, AtASampleOfTheBulkLanes) {
  for (const std::uint16_t lanes : std::initializer_list<std::uint16_t>{1, 4}) {
    const Clean clean = clean_run({}, lanes);
    for (std::size_t lane = 1; lane <= lanes; ++lane) {
      const std::uint64_t before = clean.before[lane].to_target;
      const std::uint64_t end = std::max(clean.all[lane].to_target, before + 100);
      std::uint64_t step = 1;
      for (std::uint64_t at = clean.begin(lane, Direction::kToTarget); at <= end; at += step) {
        step = at < before ? 7 : at < before + 60 ? 3 : 1 + (end - before) / 12;
        if (!mine(at)) continue;
        RunSpec spec = tiny(lanes);
        spec.plan.faults = {Fault::cut(lane, Direction::kToTarget, at, in_flight(at),
                                       at % 4 < 2 ? Scope::kLane : Scope::kLink)};
        const bool done = run_with(std::move(spec));
        EXPECT_TRUE(done || at <= before) << "lane " << lane << " at " << at;
        if (HasFailure()) return;
      }
    }
  }
}

/// The link is lost when the first pages are on their way, and again while it is opened.
TEST_P(CutPostcopy, AgainAtBytesOfComingBack) {
  LinkPlan first;
  const Clean clean = clean_run();
  first.faults = {Fault::cut(kBulk, Direction::kToTarget, clean.before[kBulk].to_target + 30,
                             InFlight::kLost, Scope::kLink)};
  Clean once = clean_run(first);
  // The guest may have asked for all of them before one was pushed.
  for (int tries = 0; tries < 20 && once.all.size() <= kUrgentAgain; ++tries) {
    once = clean_run(first);
  }
  ASSERT_GT(once.all.size(), kUrgentAgain);
  for (std::size_t lane = kControlAgain; lane <= kUrgentAgain; ++lane) {
    for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
      const std::uint64_t end = std::min<std::uint64_t>(once.all[lane].in(direction), 400);
      for (std::uint64_t at = 0; at <= end; at += lane == kControlAgain ? 2 : 9) {
        if (at / 18 % kShards != static_cast<std::uint64_t>(GetParam())) continue;
        LinkPlan plan = first;
        plan.faults.push_back(Fault::cut(lane, direction, at, in_flight(at / 2),
                                         at % 4 < 2 ? Scope::kLane : Scope::kLink));
        EXPECT_TRUE(run_with(std::move(plan)));
        if (HasFailure()) return;
      }
    }
  }
}

TEST(EnginePostcopyFaults, AFlippedBitNeverArrivesUnnoticed) {
  const Clean clean = clean_run();
  for (const std::size_t lane : {kControl, kBulk, kUrgent}) {
    for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
      const std::uint64_t bytes = clean.all[lane].in(direction);
      for (std::uint64_t at = clean.begin(lane, direction); at < bytes; at += 1 + bytes / 40) {
        RunSpec spec = tiny();
        // A record that seems longer than it is makes its reader wait.
        spec.outgoing.peer_timeout = spec.incoming.peer_timeout = milliseconds(300);
        spec.plan.faults = {Fault::flip(lane, direction, at, static_cast<unsigned>(at % 8))};
        run_with(std::move(spec));
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

/// Somebody waits for what is held up, or the link is silent altogether.
TEST(EnginePostcopyFaults, AStallIsGivenUpAndTheLinkOpenedAgain) {
  const Clean clean = clean_run();
  for (const std::size_t lane : {kControl, kUrgent}) {
    for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
      const std::uint64_t begin = clean.begin(lane, direction);
      const std::uint64_t bytes = clean.all[lane].in(direction);
      for (std::uint64_t at = begin; at < bytes; at += 1 + (bytes - begin) / 4) {
        RunSpec spec = tiny();
        spec.outgoing.peer_timeout = spec.incoming.peer_timeout = milliseconds(150);
        spec.plan.faults = {Fault::stall(lane, direction, at, Scope::kLink)};
        run_with(std::move(spec));
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(EnginePostcopyFaults, SeededTroubleOfEveryKind) {
  const Clean clean = clean_run();
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    RunSpec spec = tiny();
    spec.outgoing.peer_timeout = spec.incoming.peer_timeout = milliseconds(150);
    spec.plan = test::seeded_plan(seed, clean.all);
    run_with(std::move(spec));
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(EnginePostcopyFaults, CancelAtBytesOfTheControlLaneLeavesOneRunner) {
  const Clean clean = clean_run();
  for (const Direction direction : {Direction::kToTarget, Direction::kToSource}) {
    const std::uint64_t bytes = clean.all[kControl].in(direction);
    for (std::uint64_t at = clean.begin(kControl, direction); at < bytes; at += 1 + bytes / 60) {
      LazyGuest guest(read_all);
      RunSpec spec = tiny();
      guest.use(spec);
      Outgoing* outgoing = nullptr;
      spec.ready = [&](Outgoing& out, Incoming&) { outgoing = &out; };
      std::atomic<int> accepted{-1};
      spec.plan.faults = {
          Fault::when(kControl, direction, at, [&] { accepted = outgoing->cancel() ? 1 : 0; })};
      Migration run(std::move(spec));
      guest.join();
      expect_one_owner(run);
      if (accepted >= 0) {
        EXPECT_EQ(run.out.outcome, accepted == 1 ? Outcome::kCancelled : Outcome::kDone)
            << run.text();
      }
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(EnginePostcopyFaults, CancelAtTheTargetLeavesOneRunner) {
  const Clean clean = clean_run();
  const std::uint64_t bytes = clean.all[kControl].to_source;
  for (std::uint64_t at = 0; at < bytes; at += 1 + bytes / 30) {
    LazyGuest guest(read_all);
    RunSpec spec = tiny();
    guest.use(spec);
    Incoming* incoming = nullptr;
    spec.ready = [&](Outgoing&, Incoming& in) { incoming = &in; };
    spec.plan.faults = {Fault::when(kControl, Direction::kToSource, at,
                                    [&] { static_cast<void>(incoming->cancel()); })};
    Migration run(std::move(spec));
    guest.join();
    expect_one_owner(run);
    EXPECT_NE(run.out.outcome, Outcome::kUncertain) << run.text();
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace migrate::testing
