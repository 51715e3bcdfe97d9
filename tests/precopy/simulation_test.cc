// Simulated migrations against figures worked out by hand.
#include "precopy/simulation.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "precopy/simulated_rounds.hpp"
#include "tests/forecast/sample_traces.hpp"

namespace migrate::precopy {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::uint64_t kPages = 25'000;  // 102.4 MB.
constexpr double kBandwidth = 102.4e6;    // All of it in a second; 25 pages a millisecond.

/// Pauses and round trips cost nothing, pages what the link says.
SimulatedLink bare_link(double bytes_per_s = kBandwidth) {
  return {.bytes_per_s = bytes_per_s,
          .round_trip_ms = 0,
          .page_bytes = kPageSize,
          .page_ms_min = 0,
          .lanes = 2};
}

SimulationInput input_for(const char* policy, double max_downtime_ms = 50) {
  SimulationInput input;
  input.bandwidth_bytes_per_s = kBandwidth;
  input.round_trip_ms = 0;
  input.options.strategy = Strategy::kPrecopy;
  input.options.policy = *parse_policy(policy);
  input.options.max_downtime = microseconds(static_cast<std::int64_t>(max_downtime_ms * 1000));
  return input;
}

TEST(SimulatedRounds, WithoutWritesOneRoundIsAll) {
  const DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  SimulatedRounds rounds(trace, microseconds(0), bare_link());
  const auto first = rounds.run({});
  EXPECT_EQ(first.set_pages, kPages);
  EXPECT_EQ(first.sent, kPages);
  EXPECT_EQ(first.dirty_after, 0u);
  EXPECT_NEAR(first.ms, 1000, 0.01);
  EXPECT_NEAR(first.wire_bytes, 102.4e6, 1);
  EXPECT_EQ(rounds.run_final().sent, 0u);
}

TEST(SimulatedRounds, PagesOfZerosCostNothing) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  trace.empty = {{0, 20'000}};
  SimulatedRounds rounds(trace, microseconds(0), bare_link());
  EXPECT_NEAR(rounds.run({}).ms, 200, 0.01);
}

TEST(SimulatedRounds, AZeroPageThatIsWrittenIsSent) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  trace.empty = {{0, kPages}};
  trace.samples.push_back({milliseconds(20), {{100, 50}}, {}});
  SimulatedLink link = bare_link();
  link.round_trip_ms = 20;
  SimulatedRounds rounds(trace, microseconds(0), link);
  EXPECT_EQ(rounds.run({}).sent, 0u);
  EXPECT_EQ(rounds.run_final().sent, 50u);
}

// A sweep over all memory at half the link's rate: each round leaves half of its set.
TEST(SimulatedRounds, ASweepAtHalfTheRateHalvesTheSet) {
  for (const bool rearms_in_collect : {false, true}) {
    DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
    trace.rearms_in_collect = rearms_in_collect;
    testing::add_sweep(trace, 0, kPages, 250, 100);  // 12.5 pages/ms.
    SimulatedRounds rounds(trace, microseconds(0), bare_link());
    std::uint64_t set = rounds.run({}).dirty_after;
    // Both go upwards, the link twice as fast: what it has not reached yet is sent once.
    EXPECT_NEAR(static_cast<double>(set), 12'500, 700);
    for (int i = 0; i < 4; ++i) {
      const auto next = rounds.run({});
      EXPECT_EQ(next.set_pages, set);
      EXPECT_NEAR(static_cast<double>(next.dirty_after), static_cast<double>(set) / 2, 600) << i;
      set = next.dirty_after;
    }
  }
}

/// Where x -> step(x) settles, from 1 on.
template <typename Step>
double settled(Step step) {
  double x = 1;
  for (int i = 0; i < 10'000; ++i) x = step(x);
  return x;
}

/// The share of a uniformly written hot set that is dirty after many rounds, writes coming rho
/// times as fast as pages leave.
double simulated_share(double rho, bool rearms_in_collect) {
  constexpr std::uint32_t kHot = 80'000;
  DirtyTrace trace = testing::plain_trace(kHot, milliseconds(20));
  trace.rearms_in_collect = rearms_in_collect;
  testing::add_uniform(trace, kHot, static_cast<std::uint32_t>(std::lround(rho * 25 * 20)), 500,
                       11);
  SimulatedRounds rounds(trace, microseconds(0), bare_link());
  std::uint64_t set = 0;
  for (int i = 0; i < 14; ++i) set = rounds.run({}).dirty_after;
  return static_cast<double>(set) / kHot;
}

// A textbook's rounds, all armed at once and all sent, settle at x = 1 - exp(-rho x). Ours leave
// less:
//
// All armed at once, what is written again before it is read not sent: of a set x, in a round in
// which each page is written `a` times, x (1 - exp(-a)) / a are sent, which is what the round's
// length comes from: a = rho x (1 - exp(-a)) / a. With x = 1 - exp(-a) at the end: a = sqrt(rho) x.
TEST(SimulatedRounds, AUniformHotSetArmedAtOnceSettlesWhereTheModelSays) {
  for (const double rho : {1.5, 2.0, 4.0}) {
    const double x = settled([&](double y) { return 1 - std::exp(-std::sqrt(rho) * y); });
    EXPECT_NEAR(simulated_share(rho, true), x, 0.15 * x) << rho;
  }
}

// Armed just before it is read: a page of the set is open to writes for half the round on average,
// the others for all of it.
TEST(SimulatedRounds, AUniformHotSetArmedPageByPageSettlesWhereTheModelSays) {
  for (const double rho : {1.5, 2.0, 4.0}) {
    const double x = settled([&](double y) {
      const double a = rho * y;
      const double written = 1 - std::exp(-a);
      return y * (1 - written / a) + (1 - y) * written;
    });
    EXPECT_NEAR(simulated_share(rho, false), x, 0.15 * x) << rho;
  }
}

TEST(SimulatedRounds, TheHotSetVanishesBelowTheLinksRate) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(2));
  testing::add_uniform(trace, 10'000, 25, 1500, 12);  // rho 0.5.
  SimulatedRounds rounds(trace, microseconds(0), bare_link());
  for (int i = 0; i < 12; ++i) rounds.run({});
  EXPECT_LT(rounds.pages_left(), 50u);
}

TEST(SimulatedRounds, WithheldRunTimeIsNotWritten) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  testing::add_sweep(trace, 0, kPages, 500, 50);  // As fast as the link.
  SimulatedRounds rounds(trace, microseconds(0), bare_link());
  rounds.set_withheld({0.75});
  EXPECT_NEAR(static_cast<double>(rounds.run({}).dirty_after), kPages / 4.0, 500);
}

TEST(SimulatedRounds, ALowerRateTakesLonger) {
  const DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  SimulatedRounds rounds(trace, microseconds(0), bare_link());
  rounds.set_rate(kBandwidth / 4);
  EXPECT_NEAR(rounds.run({}).ms, 4000, 0.1);
}

TEST(Simulation, StopCopyIsMemoryOverBandwidth) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  testing::add_sweep(trace, 0, kPages, 500, 50);
  trace.costs = {milliseconds(1), microseconds(500), milliseconds(2), 102'400};
  SimulationInput input = input_for("own");
  input.options.strategy = Strategy::kStopCopy;
  const Simulation result = simulate(trace, input);
  EXPECT_TRUE(result.done);
  EXPECT_TRUE(result.rounds.empty());
  EXPECT_EQ(result.residue_pages, kPages);
  // Pause 1, collect 0.5, save 2 and 1 on the wire, load 2, start 0.2, and a second of pages.
  EXPECT_NEAR(result.downtime_ms, 1006.7, 0.1);
  EXPECT_NEAR(result.total_ms, result.downtime_ms, 0.1);
  EXPECT_NEAR(result.bytes, 102.5e6, 0.01e6);
}

TEST(Simulation, AnIdleGuestIsDownForItsFixedCosts) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  trace.samples.push_back({milliseconds(20), {}, {}});
  trace.costs.pause = milliseconds(3);
  for (const char* policy : {"own", "xen", "qemu", "fixed:1"}) {
    const Simulation result = simulate(trace, input_for(policy));
    EXPECT_TRUE(result.done) << policy;
    EXPECT_EQ(result.residue_pages, 0u) << policy;
    EXPECT_NEAR(result.downtime_ms, 3.2, 0.01) << policy;
  }
}

TEST(Simulation, RoundsOfAFixedPolicyFollowTheGeometricSeries) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  testing::add_sweep(trace, 0, kPages, 250, 100);
  const Simulation result = simulate(trace, input_for("fixed:3"));
  ASSERT_TRUE(result.done) << result.reason;
  ASSERT_EQ(result.rounds.size(), 3u);
  EXPECT_NEAR(result.total_ms, 1000 + 500 + 250 + 125, 60);
  EXPECT_NEAR(static_cast<double>(result.residue_pages), kPages / 8.0, 700);
}

TEST(Simulation, ATooFastWriterDoesNotConvergeUnlessItIsHeld) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  testing::add_sweep(trace, 0, kPages, 1000, 75);  // rho 2.
  SimulationInput input = input_for("own");
  input.options.on_stall = {{StallStep::Kind::kAbort}};
  const Simulation given_up = simulate(trace, input);
  EXPECT_FALSE(given_up.done);
  EXPECT_FALSE(given_up.reason.empty());
  EXPECT_EQ(given_up.lost_ms, 0);

  input.options.on_stall = {{StallStep::Kind::kThrottle}, {StallStep::Kind::kAbort}};
  const Simulation held = simulate(trace, input);
  ASSERT_TRUE(held.done) << held.reason;
  EXPECT_LE(held.downtime_ms, 50);
  EXPECT_GT(held.lost_ms, 0);

  input.options.on_stall = {{StallStep::Kind::kRaise, std::chrono::seconds(2)}};
  const Simulation raised = simulate(trace, input);
  ASSERT_TRUE(raised.done) << raised.reason;
  EXPECT_GT(raised.downtime_ms, 50);
  EXPECT_EQ(raised.max_downtime_ms, 2000);
}

TEST(Simulation, AGuestThatStandsIsSentOnce) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  trace.paused = true;
  const Simulation result = simulate(trace, input_for("own"));
  EXPECT_TRUE(result.done);
  EXPECT_NEAR(result.bytes, 102.4e6, 1);
}

TEST(Simulation, PackedPagesTakeLess) {
  const DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  SimulationInput input = input_for("own");
  input.content_ratio = 0.25;
  EXPECT_NEAR(simulate(trace, input).total_ms, 250, 1);
}

TEST(Simulation, SameInputsSameResult) {
  DirtyTrace trace = testing::plain_trace(kPages, milliseconds(20));
  testing::add_uniform(trace, 10'000, 450, 100, 3);
  const Simulation once = simulate(trace, input_for("own"));
  const Simulation twice = simulate(trace, input_for("own"));
  EXPECT_EQ(once.total_ms, twice.total_ms);
  EXPECT_EQ(once.residue_pages, twice.residue_pages);
}

}  // namespace
}  // namespace migrate::precopy
