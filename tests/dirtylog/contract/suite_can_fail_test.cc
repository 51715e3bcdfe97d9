// That the contract's suite finds trackers that break it: a suite that cannot fail proves nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/dirtylog/contract/broken_trackers.hpp"
#include "tests/dirtylog/contract/chance.hpp"
#include "tests/dirtylog/contract/own_memory_beds.hpp"
#include "tests/dirtylog/contract/scenarios.hpp"

namespace migrate::testing {

static void PrintTo(const Mutant& mutant, std::ostream* out) { *out << mutant.name; }

namespace {

/// Enough for a few hundred comparisons; what is found early ends earlier.
constexpr std::chrono::seconds kTime{10};

std::unique_ptr<TrackerBed> marked_bed(std::span<const std::uint64_t> area_pages,
                                       std::uint64_t seed) {
  return own_memory_bed_kinds().front().make(area_pages, seed).bed;
}

const Scenario& scenario(const std::string& name) {
  const auto& all = quiet_scenarios();
  return *std::find_if(all.begin(), all.end(), [&](const Scenario& s) { return s.name == name; });
}

class BrokenTracker : public ::testing::TestWithParam<Mutant> {};

TEST_P(BrokenTracker, IsFoundByTheScenarioOfItsPromise) {
  const std::uint64_t seed = contract_seed();
  for (const std::string& name : GetParam().found_by) {
    const Scenario& promise = scenario(name);
    const auto bed = marked_bed(promise.area_pages, seed);
    bed->wrap_tracker(GetParam().wrap);
    EXPECT_FALSE(promise.run(*bed, seed).holds())
        << name << " passes; again with MIGRATE_TEST_SEED=" << seed;
  }
}

TEST_P(BrokenTracker, IsFoundByWhatItsMigrationLoses) {
  if (!GetParam().found_at_full_speed) return;  // It loses no page.
  const std::uint64_t seed = contract_seed();
  const auto bed = marked_bed(std::vector<std::uint64_t>{2100, 1, 999}, seed);
  bed->wrap_tracker(GetParam().wrap);
  EXPECT_FALSE(loses_nothing_at_full_speed(*bed, seed, kTime).holds())
      << "again with MIGRATE_TEST_SEED=" << seed;
}

INSTANTIATE_TEST_SUITE_P(Mutants, BrokenTracker, ::testing::ValuesIn(mutants()),
                         [](const auto& test) { return test.param.name; });

TEST(NaiveContentHash, IsFoundByPagesChangedBack) {
  const std::uint64_t seed = contract_seed();
  const Scenario& promise = scenario("PagesChangedAndChangedBackAreKept");
  const auto bed = marked_bed(promise.area_pages, seed);
  bed->wrap_tracker([&](const auto&) { return make_naive_hash_tracker(bed->pages()); });
  EXPECT_FALSE(promise.run(*bed, seed).holds()) << "again with MIGRATE_TEST_SEED=" << seed;
}

}  // namespace
}  // namespace migrate::testing
