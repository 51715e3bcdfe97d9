// MigrationCopy: what a migration has on its target: it collects, re-arms, reads and skips pages as
// the engine does, with every choice the engine could take left to chance.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "migrate/memory.hpp"
#include "tests/dirtylog/contract/bed.hpp"
#include "tests/dirtylog/contract/chance.hpp"
#include "tests/dirtylog/contract/verdict.hpp"

namespace migrate::testing {

class MigrationCopy {
 public:
  MigrationCopy(TrackerBed& bed, std::uint64_t seed) : bed_(bed), chance_(seed) {}

  /// Starts the tracker; everything is dirty.
  void begin();
  /// A round as chance has it: regions left out, windows of any size in any order, peeks between,
  /// pages put off to a later round.
  void random_round() { round(true); }
  /// Collects and reads all there is.
  void full_round() { round(false); }
  /// With all writers paused: takes what is left and compares each page with memory and with the
  /// writers' logs.
  void compare();

  /// Called between any two steps of a round, with the window that is worked on.
  std::function<void(const RegionId&, PageRange)> between_steps;

  [[nodiscard]] const Verdict& verdict() const { return verdict_; }

 private:
  struct Window {
    RegionId region;
    PageRange pages;
  };

  void round(bool at_random);
  bool sync_regions();
  std::vector<Region> choose(bool at_random);
  std::vector<Window> windows(const PageBitmap& set, bool at_random);
  void peek(std::span<const Region> regions, std::span<const Window> armed);
  void read_window(const Window& window, bool at_random);
  bool read_run(const RegionId& region, PageRange run);
  void check_not_older(const RegionId& region, PageRange run,
                       std::span<const LoggedWord> before_read);
  void compare_region(const Region& region);
  std::byte* page_of(const RegionId& region, GuestPage page);
  void step(const RegionId& region, PageRange pages) {
    if (between_steps) between_steps(region, pages);
  }

  TrackerBed& bed_;
  Chance chance_;
  Verdict verdict_;
  std::vector<Region> regions_;
  std::map<RegionId, std::vector<std::byte>> content_;
  PageBitmap unread_;         ///< Dirty, and the content here is not to be relied upon.
  std::set<RegionId> armed_;  ///< Have been in a collect: what is read from now on is watched.
};

}  // namespace migrate::testing
