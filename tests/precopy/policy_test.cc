#include "migrate/policy.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace migrate {
namespace {

using Action = PolicyDecision::Action;

constexpr double kMsPerPage = 0.004;
constexpr std::uint64_t kMemory = 262144;
constexpr std::uint64_t kMbit = 125'000;

RoundSample round_of(std::uint64_t sent, std::uint64_t dirty_after) {
  RoundSample round;
  round.set_pages = round.pages_sent = sent;
  round.bytes_sent = sent * 4096;
  round.ms = static_cast<double>(sent) * kMsPerPage;
  round.dirty_after_pages = dirty_after;
  return round;
}

PolicyInput input_of(const std::vector<RoundSample>& rounds) {
  PolicyInput input;
  input.rounds = rounds;
  input.rounds_done = static_cast<std::uint32_t>(rounds.size());
  input.memory_pages = kMemory;
  for (const RoundSample& round : rounds) input.bytes_sent += round.bytes_sent;
  input.ms_per_page = input.switchover_ms_per_page = kMsPerPage;
  input.fixed_ms = 0.8;
  const double pages_ms = kMsPerPage * static_cast<double>(rounds.back().dirty_after_pages);
  input.downtime_ms = {0.8 + pages_ms, 1.5 + 1.2 * pages_ms};
  input.max_downtime_ms = 50;
  input.max_rounds = 30;
  return input;
}

struct Case {
  const char* name;
  std::vector<RoundSample> rounds;
  Action expected;
  double max_downtime_ms = 50;
  std::uint32_t max_rounds = 30;
};

void expect(const char* policy, const std::vector<Case>& cases) {
  const auto choice = parse_policy(policy);
  ASSERT_TRUE(choice);
  const auto made = make_policy(*choice);
  EXPECT_EQ(made->name(), policy);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    PolicyInput input = input_of(c.rounds);
    input.max_downtime_ms = c.max_downtime_ms;
    input.max_rounds = c.max_rounds;
    const PolicyDecision decision = made->decide(input);
    EXPECT_EQ(static_cast<int>(decision.action), static_cast<int>(c.expected)) << decision.reason;
    EXPECT_FALSE(decision.reason.empty());
  }
}

std::vector<RoundSample> with_floor(std::vector<RoundSample> rounds, std::uint64_t floor) {
  for (RoundSample& round : rounds) round.floor_pages = floor;
  return rounds;
}

TEST(OwnPolicy, DecidesByTable) {
  const auto not_shrinking =
      std::vector{round_of(kMemory, 50000), round_of(50000, 50000), round_of(50000, 49000)};
  expect(
      "own",
      {
          {"an idle guest stops after the first round",
           {round_of(kMemory, 10)},
           Action::kSwitchover},
          {"what fits but still shrinks fast gets another round",
           {round_of(kMemory, 9000)},
           Action::kNextRound},
          {"what fits and no longer halves stops",
           {round_of(kMemory, 9000), round_of(9000, 8000)},
           Action::kSwitchover},
          {"too much left goes on", {round_of(kMemory, 100000)}, Action::kNextRound},
          {"one round without progress is no stall",
           {round_of(kMemory, 50000), round_of(50000, 50000)},
           Action::kNextRound},
          {"a window without progress is one", not_shrinking, Action::kStalled},
          {"a burst within the window is none",
           {round_of(kMemory, 50000), round_of(50000, 20000), round_of(20000, 55000),
            round_of(55000, 17000)},
           Action::kNextRound},
          {"two rounds that foretell it are one",
           with_floor({round_of(kMemory, 50000), round_of(50000, 49000)}, 40000), Action::kStalled},
          {"but not where the floor keeps the limit",
           with_floor({round_of(kMemory, 50000), round_of(50000, 49000)}, 8000),
           Action::kNextRound},
          {"nor while the set still shrinks",
           with_floor({round_of(kMemory, 50000), round_of(50000, 40000)}, 30000),
           Action::kNextRound},
          {"the round limit is a stall",
           {round_of(kMemory, 100000), round_of(100000, 50000)},
           Action::kStalled,
           50,
           2},
          {"what the p50 keeps is taken before a step",
           {round_of(kMemory, 11800), round_of(11800, 11900), round_of(11900, 11900)},
           Action::kSwitchover},
          {"but not while it may get better", {round_of(kMemory, 11800)}, Action::kNextRound},
          {"the round limit never stops what fits",
           {round_of(kMemory, 10)},
           Action::kSwitchover,
           50,
           1},
          {"a limit below the fixed costs is never met",
           {round_of(kMemory, 0)},
           Action::kStalled,
           0.1,
           1},
      });
}

TEST(XenPolicy, DecidesByTable) {
  expect("xen",
         {
             {"fewer than 50 pages", {round_of(kMemory, 49)}, Action::kSwitchover},
             {"50 are too many", {round_of(kMemory, 50)}, Action::kNextRound},
             {"whatever the limit", {round_of(kMemory, 50)}, Action::kNextRound, 0.01},
             {"29 rounds", std::vector(29, round_of(100, 60)), Action::kSwitchover},
             {"28 rounds", std::vector(28, round_of(100, 60)), Action::kNextRound},
             {"three times the memory", std::vector(4, round_of(kMemory, 60)), Action::kSwitchover},
         });
}

TEST(XenPolicy, AdaptsItsRate) {
  const auto xen = make_policy({PolicyChoice::Kind::kXen});
  EXPECT_EQ(xen->first_rate(0), 100 * kMbit);
  EXPECT_EQ(xen->first_rate(1000 * kMbit), 200 * kMbit);
  // 60 pages dirtied in one second: far below the least rate.
  std::vector<RoundSample> rounds = {round_of(kMemory, 60)};
  rounds.back().ms = 1000;
  EXPECT_EQ(xen->decide(input_of(rounds)).rate_bytes_per_s, 100 * kMbit);
  // 25 MB/s: that and 50 Mbit/s more.
  rounds.back().dirty_after_pages = 25'000'000 / 4096;
  EXPECT_NEAR(static_cast<double>(xen->decide(input_of(rounds)).rate_bytes_per_s), 31.25e6, 4096);
  // Faster than the most: once at that, then it is over.
  rounds.back().dirty_after_pages = 80'000'000 / 4096;
  PolicyInput input = input_of(rounds);
  EXPECT_EQ(xen->decide(input).rate_bytes_per_s, 500 * kMbit);
  EXPECT_EQ(xen->decide(input).action, Action::kNextRound);
  input.rate_bytes_per_s = 500 * kMbit;
  EXPECT_EQ(xen->decide(input).action, Action::kSwitchover);
}

TEST(QemuPolicy, DecidesByTable) {
  expect("qemu",
         {
             {"what goes through in the limit", {round_of(kMemory, 12000)}, Action::kSwitchover},
             {"what does not", {round_of(kMemory, 13000)}, Action::kNextRound},
             {"more than half dirtied once", {round_of(kMemory, 140000)}, Action::kNextRound},
             {"twice in a row",
              {round_of(kMemory, 140000), round_of(140000, 80000)},
              Action::kStalled},
             {"less than half is progress",
              {round_of(kMemory, 140000), round_of(140000, 60000)},
              Action::kNextRound},
             {"the round limit", {round_of(kMemory, 100000)}, Action::kStalled, 50, 1},
         });
}

TEST(FixedPolicy, DoesWhatItIsTold) {
  expect("fixed:2", {
                        {"one", {round_of(kMemory, 0)}, Action::kNextRound},
                        {"two", std::vector(2, round_of(kMemory, kMemory)), Action::kSwitchover},
                    });
}

TEST(PolicyChoice, IsReadBackAsItIsWritten) {
  for (const char* text : {"own", "xen", "qemu", "fixed:1", "fixed:10000"}) {
    const auto choice = parse_policy(text);
    ASSERT_TRUE(choice) << text;
    EXPECT_EQ(to_string(*choice), text);
  }
  for (const char* text : {"", "fixed", "fixed:", "fixed:0", "fixed:10001", "fixed:1x", "Own"}) {
    const auto choice = parse_policy(text);
    ASSERT_FALSE(choice) << text;
    EXPECT_EQ(choice.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(choice.error().remedy.find("fixed:N"), std::string::npos);
  }
}

}  // namespace
}  // namespace migrate
