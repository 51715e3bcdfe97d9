// TraceReplay: a guest that writes as one did when its trace was recorded.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "migrate/dirty_trace.hpp"

namespace migrate::forecast {

/// The trace repeats for as long as it is asked. Within a sample, pages are written evenly and in
/// their order, which is a sweep's and as good as any for others. One thread.
class TraceReplay {
 public:
  /// Begins `offset` after the trace's beginning (modulo its length). `trace` must outlive this.
  TraceReplay(const DirtyTrace& trace, std::chrono::microseconds offset);

  /// Lets `ms` pass in which vCPU i may run withheld[i] less than all the time (vCPUs beyond it run
  /// freely), and calls wrote(run) for the pages that are written in it, in order; a page may come
  /// again. A throttled guest's trace goes on more slowly: where it tells who wrote, by their share
  /// of a sample's pages.
  template <typename Wrote>
  void run(double ms, std::span<const double> withheld, Wrote wrote) {
    while (ms > 0 && writes_) {
      const double speed = run_share(withheld);
      const double left_ms = sample_ms() - at_ms_;
      if (speed * ms < left_ms) {
        at_ms_ += speed * ms;
        emit(static_cast<std::uint64_t>(static_cast<double>(pages_) * at_ms_ / sample_ms()), wrote);
        return;
      }
      if (speed > 0) ms -= left_ms / speed;
      emit(pages_, wrote);
      next_sample();
    }
  }

  /// Of the sample in which the latest pages were written; see TraceSample.
  [[nodiscard]] const std::vector<std::uint64_t>& by_vcpu() const { return sample().by_vcpu; }

 private:
  template <typename Wrote>
  void emit(std::uint64_t due, Wrote& wrote) {
    while (emitted_ < due) {
      const TraceRun& run = sample().dirtied[run_];
      const auto count =
          static_cast<std::uint32_t>(std::min<std::uint64_t>(run.count - in_run_, due - emitted_));
      wrote(TraceRun{run.first + in_run_, count});
      emitted_ += count;
      in_run_ += count;
      if (in_run_ < run.count) continue;
      in_run_ = 0;
      ++run_;
    }
  }
  [[nodiscard]] const TraceSample& sample() const { return trace_.samples[sample_]; }
  [[nodiscard]] double sample_ms() const {
    return static_cast<double>(sample().took.count()) / 1000;
  }
  [[nodiscard]] double run_share(std::span<const double> withheld) const;
  void next_sample();
  void begin_sample();

  const DirtyTrace& trace_;
  bool writes_ = false;  // Any page at all.
  std::size_t sample_ = 0;
  std::uint64_t pages_ = 0;  // Of the sample.
  double at_ms_ = 0;         // Of run time in the sample.
  std::uint64_t emitted_ = 0;
  std::size_t run_ = 0;  // The next page: run, and page in it.
  std::uint32_t in_run_ = 0;
};

}  // namespace migrate::forecast
