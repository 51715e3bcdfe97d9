// TrackerBed: a tracker, memory that something writes to, and the bare calls of the kernel that do
// the same thing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/dirty_tracker.hpp"

namespace migrate::bench {

/// This process's heap and page tables and all guests' page tables on this host, in MiB.
[[nodiscard]] double memory_in_use_mib();

/// What a program without a tracker would call; empty where there is no such thing.
struct BareCalls {
  std::string name;
  std::function<void()> start;
  std::function<void()> stop;
  std::function<void()> peek;
  std::function<void()> collect;  ///< Into a bitmap of its own, which clear() takes pages from.
  std::function<void(std::size_t segment, PageRange range)> clear;
  /// Where the bare calls track other writes than the tracker does.
  std::function<void(std::uint64_t step)> write;
  /// collect() takes nothing, so it can follow the tracker's on the same log.
  bool leaves_log = false;
};

class TrackerBed {
 public:
  virtual ~TrackerBed() = default;

  [[nodiscard]] virtual std::string memory() const = 0;
  [[nodiscard]] virtual DirtyTracker& tracker() = 0;
  [[nodiscard]] virtual std::vector<Region> regions() = 0;
  /// Writes a word of every `step`-th page (all that may be written); says how many.
  virtual std::uint64_t write(std::uint64_t step) = 0;
  virtual std::uint64_t write_untracked(std::uint64_t step) { return write(step); }
  /// A writer that is never idle, and its longest time between two writes in milliseconds.
  virtual void spin() = 0;
  virtual double stop_spinning() = 0;
  /// False where looking again is not done, or would collect.
  [[nodiscard]] virtual bool peeks() const { return true; }
  /// What making the tracker took; see memory_in_use_mib().
  [[nodiscard]] double made_mib() const { return made_mib_; }
  /// What a migration does with the pages it collected, where the tracker needs to see it.
  virtual void send(const PageBitmap&) {}
  [[nodiscard]] const BareCalls& bare() const { return bare_; }

 protected:
  /// Calls `make`, which sets the tracker.
  template <typename Make>
  void make_tracker(Make make) {
    const double before_mib = memory_in_use_mib();
    make();
    made_mib_ = memory_in_use_mib() - before_mib;
  }

  BareCalls bare_;

 private:
  double made_mib_ = 0;
};

/// How a bed is made; null, with the reason, where this host cannot have it.
struct BedMaker {
  std::string_view tracker;
  std::function<std::unique_ptr<TrackerBed>(std::uint64_t bytes, std::string& why_not)> make;
};

/// In the order of the table.
[[nodiscard]] std::vector<BedMaker> bed_makers();
[[nodiscard]] std::vector<BedMaker> kvm_bed_makers();
[[nodiscard]] std::vector<BedMaker> process_bed_makers();

}  // namespace migrate::bench
