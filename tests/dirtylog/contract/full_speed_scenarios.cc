#include <algorithm>
#include <vector>

#include "tests/dirtylog/contract/migration_copy.hpp"
#include "tests/dirtylog/contract/scenarios.hpp"

namespace migrate::testing {
namespace {

using std::chrono::steady_clock;

/// Rounds between two comparisons with paused writers, at most: pages that were lost are written
/// again sooner or later, and then nobody would know.
constexpr std::uint64_t kRoundsMax = 30;
/// For a writer to be scheduled at all on a loaded host.
constexpr std::chrono::seconds kPatience{30};

using Group = std::vector<Writer*>;

void pause(const Group& group) {
  for (Writer* writer : group) writer->pause();
}
void resume(const Group& group) {
  for (Writer* writer : group) writer->resume();
}
std::uint64_t writes(const Group& group) {
  std::uint64_t least = ~std::uint64_t{0};
  for (const Writer* writer : group) least = std::min(least, writer->writes());
  return least;
}

/// All together, then each alone.
std::vector<Group> groups_of(const TrackerBed& bed) {
  Group all;
  for (const auto& writer : bed.writers()) all.push_back(writer.get());
  std::vector<Group> groups = {all};
  for (Writer* writer : all) {
    if (all.size() > 1) groups.push_back({writer});
  }
  return groups;
}

/// Rounds beside the group's writers, with a comparison now and then; until the time is over and
/// each of them has written.
void run_beside(const Group& group, MigrationCopy& copy, Chance& chance,
                std::chrono::milliseconds time) {
  const std::uint64_t before = writes(group);
  const auto begin = steady_clock::now();
  const auto over = [&] {
    const auto took = steady_clock::now() - begin;
    return took > time && (writes(group) > before || took > kPatience);
  };
  while (!over() && copy.verdict().holds()) {
    resume(group);
    for (std::uint64_t left = 1 + chance.below(kRoundsMax); left > 0 && !over(); --left) {
      copy.random_round();
    }
    pause(group);
    copy.compare();
  }
}

}  // namespace

Verdict loses_nothing_at_full_speed(TrackerBed& bed, std::uint64_t seed,
                                    std::chrono::milliseconds time) {
  Chance chance(seed);
  MigrationCopy copy(bed, seed + 1);
  const std::vector<Group> groups = groups_of(bed);
  // Tracking begins while they write.
  resume(groups.front());
  copy.begin();
  for (const Group& group : groups) {
    run_beside(group, copy, chance, time / static_cast<long>(groups.size()));
  }
  Verdict verdict = copy.verdict();
  for (const auto& writer : bed.writers()) {
    if (writer->writes() == 0) verdict.complain(std::string(writer->name()) + " never wrote");
  }
  verdict.expect(bed.tracker().stop(), "stop");
  return verdict;
}

Verdict stops_and_starts_at_full_speed(TrackerBed& bed, std::uint64_t seed,
                                       std::chrono::milliseconds time) {
  Chance chance(seed);
  Verdict verdict;
  const Group all = groups_of(bed).front();
  const auto end = steady_clock::now() + time;
  for (std::uint64_t i = 0; verdict.holds() && (i < 3 || steady_clock::now() < end); ++i) {
    resume(all);
    // A migration that is given up, and one that is not.
    MigrationCopy given_up(bed, seed + i);
    given_up.begin();
    for (std::uint64_t left = chance.below(4); left > 0; --left) given_up.random_round();
    verdict.expect(bed.tracker().stop(), "stop beside writers");
    verdict.add(given_up.verdict());
    MigrationCopy copy(bed, seed + i);
    copy.begin();
    for (std::uint64_t left = chance.below(4); left > 0; --left) copy.random_round();
    pause(all);
    copy.compare();
    verdict.add(copy.verdict());
    verdict.expect(bed.tracker().stop(), "stop");
  }
  return verdict;
}

}  // namespace migrate::testing
