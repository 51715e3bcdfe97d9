// TrackerBed: memory of some kind, a tracker of it, and all that may write to it. What the contract
// of dirty trackers is tested on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/dirty_tracker.hpp"
#include "tests/dirtylog/contract/verdict.hpp"

namespace migrate::testing {

/// Writes to a bed's memory at full speed until paused. Begins paused.
class Writer {
 public:
  virtual ~Writer() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  virtual void resume() = 0;
  /// On return no write is under way.
  virtual void pause() = 0;
  /// Pages written so far, or what grows with them.
  [[nodiscard]] virtual std::uint64_t writes() const = 0;
};

/// A word of guest memory and the least value it must have by now.
struct LoggedWord {
  GuestPage page;
  std::size_t word = 0;
  std::uint64_t at_least = 0;
};

class TrackerBed {
 public:
  virtual ~TrackerBed() = default;

  [[nodiscard]] DirtyTracker& tracker() { return *tracker_; }
  /// Puts a tracker of the caller's around, or in place of, the bed's own.
  using Wrap = std::function<std::shared_ptr<DirtyTracker>(std::shared_ptr<DirtyTracker>)>;
  void wrap_tracker(const Wrap& wrap) { tracker_ = wrap(tracker_); }

  /// What a migration with this tracker reads through.
  virtual PageSource& pages() = 0;
  /// The memory as it is, read around the tracker.
  virtual Result<ReadOutcome> truth(const RegionId& region, PageRange range,
                                    std::span<std::byte> into) = 0;

  /// The pages that touch() and the writers write to: a region each, in address space 0.
  [[nodiscard]] virtual std::span<const PageRange> areas() const = 0;
  /// Pages are reported by this many, aligned to it (in the memory's own addresses).
  [[nodiscard]] virtual std::uint64_t granularity() const { return 1; }
  /// True when peek() sees writes.
  [[nodiscard]] virtual bool peeks() const { return true; }

  /// Changes the first page of each `stride` pages of the range, and returns when that is done.
  virtual void touch(PageRange pages, std::uint64_t stride) = 0;
  void touch(PageRange pages) { touch(pages, 1); }
  /// Gives each page the content that `value` stands for, or another one where the bed's writers
  /// can only count up.
  virtual void put(PageRange pages, std::uint64_t value) = 0;

  /// With all writers paused: returns when nothing else of the bed writes, either.
  virtual void settle() {}
  /// Ends that: the bed is as it was.
  virtual void unsettle() {}

  /// One of each kind that the tracker covers.
  [[nodiscard]] virtual std::span<const std::unique_ptr<Writer>> writers() const = 0;
  /// Calls f for each word that writers keep a log of, with what they have logged by now.
  virtual void for_each_logged(PageRange pages,
                               const std::function<void(const LoggedWord&)>& f) const = 0;

 protected:
  std::shared_ptr<DirtyTracker> tracker_;
};

/// A kind of bed. `make` gives a bed with one area for each of `area_pages`, or says why this host
/// cannot have one.
struct MadeBed {
  std::unique_ptr<TrackerBed> bed;
  std::string why_not;
};
struct BedKind {
  const char* name = "";
  std::function<MadeBed(std::span<const std::uint64_t> area_pages, std::uint64_t seed)> make;
};

/// All of them, available or not.
[[nodiscard]] std::vector<BedKind> bed_kinds();

}  // namespace migrate::testing
