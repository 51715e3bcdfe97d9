// The contract of dirty trackers, on every tracker and every kind of memory and writer.
#include <gtest/gtest.h>

#include <cctype>
#include <string>
#include <tuple>

#include "tests/dirtylog/contract/bed.hpp"
#include "tests/dirtylog/contract/chance.hpp"
#include "tests/dirtylog/contract/scenarios.hpp"

namespace migrate::testing {

static void PrintTo(const BedKind& kind, std::ostream* out) { *out << kind.name; }
static void PrintTo(const Scenario& scenario, std::ostream* out) { *out << scenario.name; }

namespace {

/// Not whole words of a bitmap, and not a region alone.
const std::vector<std::uint64_t> kFullSpeedAreas = {2100, 1, 999};

/// Into the results' XML (--gtest_output), for soaks.
void record(const Verdict& verdict) {
  ::testing::Test::RecordProperty("collects", std::to_string(verdict.collects()));
  ::testing::Test::RecordProperty("pages_read", std::to_string(verdict.pages_read()));
}

std::string again_with(std::uint64_t seed) {
  return "; again with MIGRATE_TEST_SEED=" + std::to_string(seed);
}

class QuietContract : public ::testing::TestWithParam<std::tuple<BedKind, Scenario>> {};

TEST_P(QuietContract, Holds) {
  const auto& [kind, scenario] = GetParam();
  const std::uint64_t seed = contract_seed();
  const MadeBed made = kind.make(scenario.area_pages, seed);
  if (!made.bed) GTEST_SKIP() << made.why_not;
  const Verdict verdict = scenario.run(*made.bed, seed);
  EXPECT_TRUE(verdict.holds()) << verdict.text() << again_with(seed);
}

INSTANTIATE_TEST_SUITE_P(Trackers, QuietContract,
                         ::testing::Combine(::testing::ValuesIn(bed_kinds()),
                                            ::testing::ValuesIn(quiet_scenarios())),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) + "_" +
                                  std::get<1>(test.param).name;
                         });

class FullSpeedContract : public ::testing::TestWithParam<BedKind> {};

TEST_P(FullSpeedContract, LosesNothingBesideWriters) {
  const std::uint64_t seed = contract_seed();
  const MadeBed made = GetParam().make(kFullSpeedAreas, seed);
  if (!made.bed) GTEST_SKIP() << made.why_not;
  const Verdict verdict = loses_nothing_at_full_speed(*made.bed, seed, full_speed_time());
  record(verdict);
  EXPECT_TRUE(verdict.holds()) << verdict.text() << again_with(seed);
}

TEST_P(FullSpeedContract, StopsAndStartsBesideWriters) {
  const std::uint64_t seed = contract_seed();
  const MadeBed made = GetParam().make(kFullSpeedAreas, seed);
  if (!made.bed) GTEST_SKIP() << made.why_not;
  const Verdict verdict = stops_and_starts_at_full_speed(*made.bed, seed, full_speed_time() / 4);
  record(verdict);
  EXPECT_TRUE(verdict.holds()) << verdict.text() << again_with(seed);
}

INSTANTIATE_TEST_SUITE_P(Trackers, FullSpeedContract, ::testing::ValuesIn(bed_kinds()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace migrate::testing
