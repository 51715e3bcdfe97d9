// PushOrder: which pages leave next. Pure policy: no clock, no memory, no lock.
//
// What was asked to go first; then around the latest faults, outward both ways ("bubbling": Hines,
// Gopalan, "Post-copy based live virtual machine migration using adaptive pre-paging and dynamic
// self-ballooning", VEE 2009), several of them side by side, the newest preferred; then what was
// written lately; then the rest in order of addresses. Or, to compare, all of that in order of
// addresses.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "migrate/memory.hpp"
#include "migrate/options.hpp"

namespace migrate::postcopy {

/// Regions are numbered in the order they were given, their pages from 0. Each page is given out
/// once. Costs three bits a page; a call looks at a few words of them, and all calls together pass
/// each word a few times.
class PushOrder {
 public:
  struct Run {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    [[nodiscard]] std::uint64_t end() const { return first + count; }
    friend bool operator==(const Run&, const Run&) = default;
  };
  /// Pages of one region.
  struct Batch {
    std::size_t region = 0;
    std::vector<Run> runs;  ///< Ascending, apart, none empty.
    std::uint64_t pages = 0;
  };
  struct Part {
    Region region;
    std::uint32_t granule = 1;  ///< Pages that only go together, a power of two.
  };

  /// How far around a fault pages leave before those written lately: 4 MiB each way, 34 ms of
  /// 1 Gbit/s. Beyond, nearness says less than recency.
  static constexpr std::uint64_t kReach = 1024;
  /// Faults that are remembered: as many streams as a guest with some vCPUs has.
  static constexpr std::size_t kPivotsMax = 16;

  explicit PushOrder(std::span<const Part> parts, PushPattern pattern = PushPattern::kBubble);

  /// Exactly these are unsent, the rest of a granule with any page of it. Regions that were not
  /// given are ignored. What is known of faults stays.
  void set_missing(const PageBitmap& missing);
  void set_first(const PageBitmap& first);
  void set_recent(const PageBitmap& recent);

  /// From here on everything leaves; before, what is first.
  void open() { open_ = true; }
  /// Somebody waits, or waited, for `run`, which has left: it is not given out any more.
  void fault(std::size_t region, Run run);
  /// Up to `pages_max` pages, or one granule where that is more; false when nothing may leave.
  [[nodiscard]] bool next(std::uint64_t pages_max, Batch& batch);

  [[nodiscard]] std::uint64_t left() const { return left_; }

 private:
  struct Place {
    std::size_t region = 0;
    std::uint64_t page = 0;
  };
  /// Everything in [down, up) was given out, or left to others.
  struct Pivot {
    std::size_t region = 0;
    std::uint64_t at = 0;  ///< The latest fault.
    std::uint64_t down = 0, up = 0;
    std::uint64_t down_end = 0, up_end = 0;  ///< How far to go.
    int trend = 0;                           ///< So many faults in a row ascended (descended: -).
    bool down_next = false;
  };

  [[nodiscard]] PageBitmap laid_out(const PageBitmap& set) const;
  [[nodiscard]] std::uint64_t pages_of(std::size_t region) const;
  void clear(std::size_t region, Run run);
  void add(Batch& batch, Run run);
  void aim(Pivot& pivot) const;
  bool next_of(const PageBitmap* set, Place& place, std::uint64_t pages_max, Batch& batch);
  bool next_around(std::uint64_t pages_max, Batch& batch);
  bool spread(Pivot& pivot, std::uint64_t pages_max, Batch& batch);
  /// Takes pages of `set` (nullptr: any) in [from, limit), and says up to where it has looked.
  std::uint64_t take_up(const PageBitmap* set, std::uint64_t from, std::uint64_t limit,
                        std::uint64_t pages_max, Batch& batch);
  /// The same from `from` (not with it) down to `limit`.
  std::uint64_t take_down(std::uint64_t from, std::uint64_t limit, std::uint64_t pages_max,
                          Batch& batch);

  const PushPattern pattern_;
  std::vector<std::uint32_t> granules_;
  PageBitmap unsent_;
  PageBitmap first_;   // These three have the same segments.
  PageBitmap recent_;  //
  Place first_place_, recent_place_, rest_place_;
  std::vector<Pivot> pivots_;  // The newest in front.
  std::uint64_t turn_ = 0;
  std::uint64_t left_ = 0;
  bool open_ = false;
};

}  // namespace migrate::postcopy
