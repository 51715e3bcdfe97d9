// That the contract's suite finds trackers that break it: a suite that cannot fail proves nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/dirtylog/contract/broken_trackers.hpp"
#include "tests/dirtylog/contract/chance.hpp"
#include "tests/dirtylog/contract/kvm_beds.hpp"
#include "tests/dirtylog/contract/own_memory_beds.hpp"
#include "tests/dirtylog/contract/scenarios.hpp"

namespace migrate::testing {

static void PrintTo(const Mutant& mutant, std::ostream* out) { *out << mutant.name; }

namespace {

/// Enough for a few hundred comparisons; what is found early ends earlier.
constexpr std::chrono::seconds kTime{10};
constexpr std::uint64_t kAttempts = 30;
/// Beside writers at full speed: the first finds it, but where the writers have no processor. All
/// of them end within a test's time limit.
constexpr std::uint64_t kAttemptsAtFullSpeed = 8;

std::unique_ptr<TrackerBed> marked_bed(std::span<const std::uint64_t> area_pages,
                                       std::uint64_t seed) {
  return own_memory_bed_kinds().front().make(area_pages, seed).bed;
}

const Scenario& scenario(const std::string& name) {
  const auto& all = quiet_scenarios();
  return *std::find_if(all.begin(), all.end(), [&](const Scenario& s) { return s.name == name; });
}

class BrokenTracker : public ::testing::TestWithParam<Mutant> {};

/// A scenario writes and peeks where chance has it, so that one run may miss what the many runs of
/// a test suite do not.
bool is_found(const Mutant& mutant, const Scenario& promise, std::uint64_t seed) {
  for (std::uint64_t attempt = 0; attempt < kAttempts; ++attempt) {
    const auto bed = marked_bed(promise.area_pages, seed + attempt);
    bed->wrap_tracker(mutant.wrap);
    if (!promise.run(*bed, seed + attempt).holds()) return true;
  }
  return false;
}

TEST_P(BrokenTracker, IsFoundByTheScenarioOfItsPromise) {
  const std::uint64_t seed = contract_seed();
  for (const std::string& name : GetParam().found_by) {
    EXPECT_TRUE(is_found(GetParam(), scenario(name), seed))
        << name << " passes; again with MIGRATE_TEST_SEED=" << seed;
  }
}

std::vector<Mutant> losing_mutants() {
  std::vector<Mutant> losing = mutants();
  std::erase_if(losing, [](const Mutant& mutant) { return !mutant.found_at_full_speed; });
  return losing;
}

class LosingTracker : public ::testing::TestWithParam<Mutant> {};

TEST_P(LosingTracker, IsFoundByWhatItsMigrationLoses) {
  const std::uint64_t seed = contract_seed();
  bool found = false;
  for (std::uint64_t attempt = 0; attempt < kAttemptsAtFullSpeed && !found; ++attempt) {
    const auto bed = marked_bed(std::vector<std::uint64_t>{2100, 1, 999}, seed + attempt);
    bed->wrap_tracker(GetParam().wrap);
    found = !loses_nothing_at_full_speed(*bed, seed + attempt, kTime).holds();
  }
  EXPECT_TRUE(found) << "again with MIGRATE_TEST_SEED=" << seed;
}

INSTANTIATE_TEST_SUITE_P(Mutants, BrokenTracker, ::testing::ValuesIn(mutants()),
                         [](const auto& test) { return test.param.name; });
INSTANTIATE_TEST_SUITE_P(Mutants, LosingTracker, ::testing::ValuesIn(losing_mutants()),
                         [](const auto& test) { return test.param.name; });

TEST(NaiveContentHash, IsFoundByPagesChangedBack) {
  const std::uint64_t seed = contract_seed();
  const Scenario& promise = scenario("PagesChangedAndChangedBackAreKept");
  const auto bed = marked_bed(promise.area_pages, seed);
  bed->wrap_tracker([&](const auto&) { return make_naive_hash_tracker(bed->pages()); });
  EXPECT_FALSE(promise.run(*bed, seed).holds()) << "again with MIGRATE_TEST_SEED=" << seed;
}

class RearmingLate : public ::testing::Test {
 protected:
  static std::unique_ptr<TrackerBed> bed_with(std::span<const std::uint64_t> area_pages,
                                              std::uint64_t seed, std::string& why_not) {
    MadeBed made = kvm_bed_kinds().front().make(area_pages, seed);
    why_not = made.why_not;
    if (made.bed) made.bed->wrap_tracker(rearm_late);
    return std::move(made.bed);
  }
};

TEST_F(RearmingLate, IsFoundByWritesBetweenTheStepsOfARound) {
  const std::uint64_t seed = contract_seed();
  const Scenario& promise = scenario("WritesBetweenAnyTwoStepsAreKept");
  bool found = false;
  for (std::uint64_t attempt = 0; attempt < kAttempts && !found; ++attempt) {
    std::string why_not;
    const auto bed = bed_with(promise.area_pages, seed + attempt, why_not);
    if (!bed) GTEST_SKIP() << why_not;
    found = !promise.run(*bed, seed + attempt).holds();
  }
  EXPECT_TRUE(found) << "again with MIGRATE_TEST_SEED=" << seed;
}

TEST_F(RearmingLate, IsFoundBesideAGuestAtFullSpeed) {
  const std::uint64_t seed = contract_seed();
  bool found = false;
  for (std::uint64_t attempt = 0; attempt < kAttemptsAtFullSpeed && !found; ++attempt) {
    std::string why_not;
    const auto bed = bed_with(std::vector<std::uint64_t>{2100, 1, 999}, seed + attempt, why_not);
    if (!bed) GTEST_SKIP() << why_not;
    found = !loses_nothing_at_full_speed(*bed, seed + attempt, kTime).holds();
  }
  EXPECT_TRUE(found) << "again with MIGRATE_TEST_SEED=" << seed;
}

}  // namespace
}  // namespace migrate::testing
