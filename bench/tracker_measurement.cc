#include "bench/tracker_measurement.hpp"

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>

#include "bench/measuring.hpp"

namespace migrate::bench {
namespace {

// As the engine re-arms: see src/precopy/rounds.cc.
constexpr std::uint64_t kWindowPages = 2048;
// So long a writer spins before it is armed: long enough to be at full speed.
constexpr std::chrono::milliseconds kSpinUp{5};
// Collects of one log that stays, and how long that may take together.
constexpr unsigned kLooksMax = 7;
constexpr double kLookMs = 100;
// A pass that takes no longer is done at least so often.
constexpr double kShortPassS = 3;
constexpr double kRepeatsMin = 3;

template <typename F>
double timed_ms(F&& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  return took.count();
}

std::optional<double> median_of(const Samples& samples) {
  if (samples.count() == 0) return std::nullopt;
  return samples.median();
}

double kib_of(const char* path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name)) return std::stod(line.substr(name.size()));
  }
  return 0;  // Older kernels do not tell.
}

class DirtyRun {
 public:
  DirtyRun(TrackerBed& bed, std::uint64_t step)
      : bed_(bed), tracker_(bed.tracker()), step_(step), set_(bed.regions()), again_(set_) {}

  void settle() {
    must(tracker_.start());
    if (bed_.bare().write) bed_.bare().start();
    // The first collect may report all there is.
    for (int i = 0; i < 2; ++i) {
      take();
      rearm(nullptr, 0);
      bed_.send(set_);
    }
  }

  /// One pass of the tracker and one of the bare calls, or both in one.
  void pass(unsigned number) {
    if (bed_.bare().leaves_log) return pass_of_both(number);
    if (number % 2 == 1) pass_of_bare();
    pass_of_tracker();
    if (number % 2 == 0) pass_of_bare();
  }

  void stop() {
    must(tracker_.stop());
    if (bed_.bare().write) bed_.bare().stop();
  }

  DirtyFigures figures() const {
    DirtyFigures figures;
    figures.written = written_;
    figures.reported = reported_;
    figures.peek = {median_of(peek_), median_of(bare_peek_)};
    figures.collect = {median_of(collect_), median_of(bare_collect_)};
    figures.clear = {median_of(clear_), median_of(bare_clear_)};
    figures.write_ms = write_.median();
    figures.memory_mib = memory_mib_;
    figures.repeats = static_cast<unsigned>(write_.count());
    return figures;
  }

 private:
  void take() {
    set_.clear_all();
    collect_once_ms_ = timed_ms([&] { must(tracker_.collect(set_)); });
  }

  void write() {
    if (step_ == 0) return write_.add(0);
    write_.add(timed_ms([&] { written_ = bed_.write(step_); }));
  }

  void look_and_take() {
    again_.clear_all();
    if (bed_.peeks()) peek_.add(timed_ms([&] { must(tracker_.peek(again_)); }));
    take();
    collect_.add(collect_once_ms_);
    reported_ = set_.count();
    if (reported_ < written_) {
      give_up(std::string(tracker_.name()) + " reports " + std::to_string(reported_) +
              " pages of " + std::to_string(written_) + " that were written");
    }
    if (memory_mib_ == 0) memory_mib_ = memory_in_use_mib();
  }

  void pass_of_tracker() {
    write();
    look_and_take();
    bed_.send(set_);
  }

  void pass_of_bare() {
    const BareCalls& bare = bed_.bare();
    if (!bare.collect) return;
    if (step_ != 0) bare.write ? bare.write(step_) : static_cast<void>(bed_.write(step_));
    if (bare.peek) bare_peek_.add(timed_ms(bare.peek));
    bare_collect_.add(timed_ms(bare.collect));
  }

  void pass_of_both(unsigned number) {
    write();
    const auto look_bare = [&] {
      const BareCalls& bare = bed_.bare();
      if (bare.peek) bare_peek_.add(timed_ms(bare.peek));
      bare_collect_.add(timed_ms(bare.collect));
    };
    // Nothing is taken, so what is quick is looked at often.
    double looked_ms = 0;
    for (unsigned look = 0; look < kLooksMax && looked_ms < kLookMs; ++look) {
      if ((number + look) % 2 == 1) look_bare();
      look_and_take();
      if ((number + look) % 2 == 0) look_bare();
      looked_ms += collect_once_ms_;
    }
    if (bed_.bare().clear) rearm(&bed_.bare(), number);
    bed_.send(set_);
  }

  /// With `bare`: every other window by the bare call. All windows have as many dirty pages, so the
  /// median of one stands for each of them.
  void rearm(const BareCalls* bare, unsigned number) {
    if (tracker_.rearms_in_collect()) return;
    Samples layer, by_bare;
    for (std::size_t i = 0; i < set_.segments().size(); ++i) {
      const auto& segment = set_.segments()[i];
      const PageRange whole = segment.region.range;
      for (GuestPage first = whole.first; first < whole.end();) {
        const PageRange window{first, std::min(kWindowPages, whole.end() - first)};
        first = window.end();
        if (next_run(segment, window.first, window.end()).empty()) continue;
        if (bare != nullptr && number++ % 2 == 1) {
          by_bare.add(timed_ms([&] { bare->clear(i, window); }));
        } else {
          layer.add(timed_ms([&] { must(tracker_.rearm(set_, segment.region.id, window)); }));
        }
      }
    }
    if (bare == nullptr) return;
    const auto windows = static_cast<double>(layer.count() + by_bare.count());
    clear_.add(layer.median() * windows);
    bare_clear_.add(by_bare.median() * windows);
  }

  TrackerBed& bed_;
  DirtyTracker& tracker_;
  const std::uint64_t step_;
  PageBitmap set_;
  PageBitmap again_;
  std::uint64_t written_ = 0;
  std::uint64_t reported_ = 0;
  double memory_mib_ = 0;
  double collect_once_ms_ = 0;
  Samples write_, peek_, collect_, clear_;
  Samples bare_peek_, bare_collect_, bare_clear_;
};

/// The longest time without a write while `arm` runs.
template <typename F>
double stall_ms(TrackerBed& bed, F&& arm) {
  bed.spin();
  std::this_thread::sleep_for(kSpinUp);
  arm();
  // A writer that was held up notes it when it goes on.
  std::this_thread::sleep_for(kSpinUp);
  return bed.stop_spinning();
}

}  // namespace

double memory_in_use_mib() {
  const struct mallinfo2 heap = ::mallinfo2();
  return static_cast<double>(heap.uordblks + heap.hblkhd) / (1 << 20) +
         (kib_of("/proc/self/status", "VmPTE:") + kib_of("/proc/meminfo", "SecPageTables:")) / 1024;
}

ArmingFigures measure_arming(TrackerBed& bed, unsigned repeats) {
  DirtyTracker& tracker = bed.tracker();
  const BareCalls& bare = bed.bare();
  Samples layer, bare_start, stall, stall_without;
  for (unsigned i = 0; i < repeats; ++i) {
    // So that nothing is left of the former time: whole huge pages, faulted in.
    (void)bed.write_untracked(1);
    layer.add(timed_ms([&] { must(tracker.start()); }));
    must(tracker.stop());
    if (bare.start) {
      if (bare.write) bare.write(1);
      (void)bed.write_untracked(1);
      bare_start.add(timed_ms(bare.start));
      bare.stop();
    }
  }
  const double start_ms = layer.median();
  for (unsigned i = 0; i < repeats; ++i) {
    (void)bed.write_untracked(1);
    stall_without.add(stall_ms(bed, [&] {
      std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(start_ms));
    }));
    stall.add(stall_ms(bed, [&] { must(tracker.start()); }));
    must(tracker.stop());
  }
  return {{start_ms, median_of(bare_start)}, stall.median(), stall_without.median()};
}

DirtyFigures measure_dirty(TrackerBed& bed, std::uint64_t step, double budget_s,
                           unsigned repeats_max, double memory_before_mib) {
  Samples untracked;
  if (step != 0) {
    (void)bed.write_untracked(1);
    for (int i = 0; i < 3; ++i) {
      untracked.add(timed_ms([&] { (void)bed.write_untracked(step); }));
    }
  }
  DirtyRun run(bed, step);
  run.settle();
  const double first_s = timed_ms([&] { run.pass(0); }) / 1000;
  const double least = first_s < kShortPassS && repeats_max >= kRepeatsMin ? kRepeatsMin : 1;
  const auto repeats = static_cast<unsigned>(
      std::clamp(budget_s / std::max(first_s, 1e-6), least, static_cast<double>(repeats_max)));
  for (unsigned i = 1; i < repeats; ++i) run.pass(i);
  run.stop();
  DirtyFigures figures = run.figures();
  figures.percent = step == 0 ? 0 : 100.0 / static_cast<double>(step);
  figures.memory_mib = std::max(0.0, figures.memory_mib - memory_before_mib + bed.made_mib());
  figures.write_untracked_ms = untracked.median();
  return figures;
}

}  // namespace migrate::bench
