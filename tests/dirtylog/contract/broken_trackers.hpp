// Trackers that break the contract in one way each, so that the suite can be seen to fail.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "migrate/dirty_tracker.hpp"
#include "tests/dirtylog/contract/bed.hpp"

namespace migrate::testing {

struct Mutant {
  const char* name = "";  ///< What it does wrong.
  TrackerBed::Wrap wrap;
  std::vector<std::string> found_by;  ///< Quiet scenarios, by name.
  bool found_at_full_speed = false;   ///< It loses pages.
};

/// To be put around a tracker that re-arms in collect and reports by single pages.
[[nodiscard]] std::vector<Mutant> mutants();

/// Around a tracker that does not re-arm in collect: re-arms when the round is over.
[[nodiscard]] std::shared_ptr<DirtyTracker> rearm_late(std::shared_ptr<DirtyTracker> real);

/// Compares what a collect reads with what the one before it read. A page that is written and read
/// in between, and then written back, looks untouched.
[[nodiscard]] std::shared_ptr<DirtyTracker> make_naive_hash_tracker(PageSource& memory);

}  // namespace migrate::testing
