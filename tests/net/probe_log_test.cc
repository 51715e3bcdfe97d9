#include "tests/net/probe_log.hpp"

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

namespace migrate::probe {
namespace {

constexpr Nanoseconds kMs = 1'000'000;

struct Answer {
  std::uint64_t number;
  Nanoseconds at_ms;
};

/// Probes are sent at 0, 10, 20... ms; what is answered, in the order of answers.
struct Case {
  std::string name;
  std::uint64_t sent;
  std::vector<Answer> answers;
  std::uint64_t lost, reordered, duplicated;
  Nanoseconds gap_began_ms, gap_ms;
  std::uint64_t lost_in_a_row;
  Nanoseconds lost_began_ms, lost_ms;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

ProbeLog log_of(const Case& c) {
  ProbeLog log;
  std::uint64_t sent = 0;
  const auto send_until = [&](Nanoseconds ms) {
    for (; sent < c.sent && static_cast<Nanoseconds>(sent) * 10 <= ms; ++sent) {
      log.sent(static_cast<Nanoseconds>(sent) * 10 * kMs);
    }
  };
  for (const Answer& answer : c.answers) {
    send_until(answer.at_ms);
    EXPECT_TRUE(log.answered(answer.number, answer.at_ms * kMs));
  }
  send_until(INT64_MAX / kMs);
  return log;
}

class Arithmetic : public testing::TestWithParam<Case> {};

TEST_P(Arithmetic, SaysWhatAClientFelt) {
  const Case& c = GetParam();
  const Figures figures = log_of(c).figures(static_cast<Nanoseconds>(c.sent) * 10 * kMs);
  EXPECT_EQ(figures.sent, c.sent);
  EXPECT_EQ(figures.answered, c.sent - c.lost);
  EXPECT_EQ(figures.lost, c.lost);
  EXPECT_EQ(figures.reordered, c.reordered);
  EXPECT_EQ(figures.duplicated, c.duplicated);
  EXPECT_EQ(figures.gap.lasted, c.gap_ms * kMs);
  EXPECT_EQ(figures.gap.began, c.gap_began_ms * kMs);
  EXPECT_EQ(figures.lost_in_a_row, c.lost_in_a_row);
  EXPECT_EQ(figures.lost_run.lasted, c.lost_ms * kMs);
  EXPECT_EQ(figures.lost_run.began, c.lost_began_ms * kMs);
}

INSTANTIATE_TEST_SUITE_P(
    Probes, Arithmetic,
    testing::Values(
        Case{"NoneSent", 0, {}, 0, 0, 0, 0, 0, 0, 0, 0},
        Case{"AllAnsweredAtOnce", 3, {{0, 1}, {1, 11}, {2, 21}}, 0, 0, 0, 0, 1, 0, 0, 0},
        // Down from after the first answer until just before the fifth probe.
        Case{"Outage", 6, {{0, 1}, {4, 41}, {5, 51}}, 3, 0, 0, 10, 31, 3, 10, 30},
        Case{"OneLost", 4, {{0, 1}, {2, 21}, {3, 31}}, 1, 0, 0, 10, 11, 1, 10, 10},
        // Kept waiting, none lost: the client felt as long an outage.
        Case{"AnsweredLate",
             6,
             {{0, 1}, {1, 42}, {2, 42}, {3, 43}, {4, 43}, {5, 51}},
             0,
             0,
             0,
             10,
             32,
             0,
             0,
             0},
        Case{"Reordered", 4, {{0, 1}, {2, 21}, {1, 22}, {3, 31}}, 0, 1, 0, 10, 11, 0, 0, 0},
        Case{"AnsweredTwice",
             3,
             {{0, 1}, {0, 2}, {1, 11}, {1, 12}, {1, 13}, {2, 21}},
             0,
             0,
             3,
             0,
             1,
             0,
             0,
             0},
        // A second answer to an old probe is none to what was asked since.
        Case{"TwiceInAnOutage", 5, {{0, 1}, {0, 25}, {4, 41}}, 3, 0, 1, 10, 31, 3, 10, 30},
        // An old probe's first answer is an answer: somebody is there again.
        Case{"LateOneInAnOutage",
             6,
             {{0, 1}, {2, 21}, {1, 39}, {5, 51}},
             2,
             1,
             0,
             39,
             12,
             2,
             30,
             20},
        Case{"NeverBack", 6, {{0, 1}, {1, 11}}, 4, 0, 0, 20, 40, 4, 20, 40},
        Case{"NeverThere", 3, {}, 3, 0, 0, 0, 30, 3, 0, 30},
        Case{"ThereLate", 4, {{3, 31}}, 3, 0, 0, 0, 31, 3, 0, 30},
        Case{"LongestOfTwo", 8, {{0, 1}, {2, 21}, {6, 61}, {7, 71}}, 4, 0, 0, 30, 31, 3, 30, 30},
        // The answer to the newest came so late that the next wait began with it.
        Case{"SlowerThanTheInterval", 3, {{0, 15}, {1, 35}, {2, 55}}, 0, 0, 0, 15, 20, 0, 0, 0}),
    [](const auto& tested) { return tested.param.name; });

TEST(ProbeLog, ASenderThatWasHeldUpAddsNothingToTheGap) {
  ProbeLog log;
  log.sent(0);
  log.answered(0, 1 * kMs);
  log.sent(500 * kMs);
  log.answered(1, 502 * kMs);
  EXPECT_EQ(log.figures(510 * kMs).gap.lasted, 2 * kMs);
}

TEST(ProbeLog, RoundTripsByNearestRank) {
  ProbeLog log;
  for (Nanoseconds number = 0; number < 200; ++number) {
    log.sent(number * kMs);
    log.answered(static_cast<std::uint64_t>(number), number * kMs + number + 1);
  }
  const Figures figures = log.figures(200 * kMs);
  EXPECT_EQ(figures.rtt_p50, 100);
  EXPECT_EQ(figures.rtt_p99, 198);
  EXPECT_EQ(figures.rtt_max, 200);
}

TEST(ProbeLog, RefusesAnswersToWhatWasNeverAsked) {
  ProbeLog log;
  EXPECT_FALSE(log.answered(0, 1));
  log.sent(0);
  EXPECT_FALSE(log.answered(1, 1));
  EXPECT_EQ(log.figures(2).answered, 0);
}

TEST(ProbeLog, AGlanceCountsThePresentWaitAndNoProbeOnItsWay) {
  ProbeLog log;
  log.sent(0);
  log.answered(0, 1 * kMs);
  log.sent(10 * kMs);
  log.sent(20 * kMs);
  Glance glance = log.glance(50 * kMs);
  EXPECT_EQ(glance.answered, 1);
  EXPECT_EQ(glance.lost, 0);
  EXPECT_EQ(glance.gap, 40 * kMs);
  log.answered(2, 60 * kMs);
  glance = log.glance(60 * kMs);
  EXPECT_EQ(glance.lost, 1);
  EXPECT_EQ(glance.gap, 50 * kMs);
}

}  // namespace
}  // namespace migrate::probe
