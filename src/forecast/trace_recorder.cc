// Recording a dirty trace from a guest.
#include <poll.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <utility>

#include "base/fd.hpp"
#include "forecast/rehearsal.hpp"
#include "forecast/trace_pages.hpp"
#include "migrate/dirty_trace.hpp"
#include "migrate/options.hpp"

namespace migrate {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr microseconds kDurationMin{10'000};
constexpr microseconds kDurationMax{600'000'000};
constexpr microseconds kIntervalMin{1'000};
constexpr microseconds kIntervalMax{10'000'000};
// Looking for pages of zeros may take this share of the time: at some 5 GB/s a tenth of three
// seconds is enough for 1.5 GiB. Pages that were not looked at count as full.
constexpr int kZeroScanShare = 10;
// The share of the time that is not in the trace. When tracking begins, the hypervisor maps the
// guest's memory anew as it is touched, and pages that are only read are logged as written: up to
// once each, in a guest of 256 MiB that reads all of it for 1.4 s.
constexpr int kWarmUpShare = 3;
// Content, the entry of a page, and its part of a batch's headers (docs/wire-format.md).
constexpr std::uint32_t kPageWireBytes = kPageSize + 17;

bool is_zero(const std::byte* page) {
  return page[0] == std::byte{0} && std::memcmp(page, page + 1, kPageSize - 1) == 0;
}

class Recorder {
 public:
  Recorder(SourceGuest& guest, const TraceOptions& options)
      : guest_(guest),
        tracker_(guest.tracker()),
        options_(options),
        begun_(Clock::now()),
        deadline_(begun_ + options.duration) {}

  Result<DirtyTrace> record() {
    MIGRATE_TRY(describe());
    MIGRATE_TRY(tracker_.start());
    Status recorded = follow();
    Status stopped = tracker_.stop();
    MIGRATE_TRY(std::move(recorded));
    MIGRATE_TRY(std::move(stopped));
    return std::move(trace_);
  }

 private:
  Status describe() {
    MIGRATE_ASSIGN(const GuestDescription description, guest_.describe());
    MIGRATE_ASSIGN(trace_.regions, guest_.pages().regions());
    trace_.guest = description.name;
    trace_.kind = description.kind;
    trace_.vcpus = description.vcpus;
    trace_.paused = guest_.run_state() == RunState::kPaused;
    trace_.recorded_at_s = static_cast<std::uint64_t>(std::time(nullptr));
    trace_.tracker = tracker_.name();
    trace_.rearms_in_collect = tracker_.rearms_in_collect();
    trace_.interval = options_.interval;
    trace_.page_wire_bytes = kPageWireBytes;
    set_ = PageBitmap(trace_.regions);
    return {};
  }

  Status follow() {
    MIGRATE_TRY(collect());
    MIGRATE_TRY(rehearse());
    MIGRATE_TRY(find_empty());
    MIGRATE_TRY(wait_until(begun_ + options_.duration / kWarmUpShare));
    // What was written before the first interval, and by the rehearsal, belongs to none.
    MIGRATE_TRY(collect());
    begun_sample_ = collected_at_;
    by_vcpu_ = tracker_.written_by_vcpu();
    for (auto next = begun_sample_ + options_.interval; Clock::now() < deadline_;
         next = std::max(next + options_.interval, Clock::now())) {
      MIGRATE_TRY(wait_until(std::min(next, deadline_)));
      MIGRATE_TRY(sample());
      if (runs_ > kTraceRunsMax) {
        trace_.samples.pop_back();
        break;
      }
    }
    if (trace_.samples.empty()) {
      return make_error(ErrorCode::kTimeout,
                        "the time to record was over before the first interval")
          .advise("record for longer");
    }
    auto& took = collects_;
    std::nth_element(took.begin(), took.begin() + took.size() / 2, took.end());
    trace_.costs.collect = took[took.size() / 2];
    return {};
  }

  Status rehearse() {
    MIGRATE_ASSIGN(const forecast::Rehearsal rehearsal, forecast::rehearse(guest_));
    const auto us = [](auto time) { return std::chrono::duration_cast<microseconds>(time); };
    trace_.costs.pause = us(rehearsal.pause);
    trace_.costs.state_save = us(rehearsal.save);
    trace_.costs.state_bytes = rehearsal.state_bytes;
    trace_.paused = rehearsal.paused;
    return {};
  }

  /// Pages of zeros: those known as holes, and as many of the others as there is time to look at.
  Status find_empty() {
    PageBitmap empty(trace_.regions);
    for (const Region& region : trace_.regions) {
      MIGRATE_TRY(guest_.pages().holes(region.id, empty));
    }
    const auto until = Clock::now() + options_.duration / kZeroScanShare;
    for (auto& segment : empty.segments()) {
      MIGRATE_TRY(scan(segment, guest_.pages().mapped(segment.region.id), until));
    }
    trace_.empty = forecast::number_pages(empty);
    return {};
  }

  Status scan(PageBitmap::Segment& segment, std::span<const std::byte> memory,
              Clock::time_point until) {
    for (std::uint64_t page = 0; page < memory.size() / kPageSize; ++page) {
      // Each 4 MiB, which take about a millisecond.
      if (page % 1024 == 0) {
        if (Clock::now() >= until) return {};
        MIGRATE_TRY(check_cancelled(milliseconds(0)));
      }
      const std::uint64_t bit = std::uint64_t{1} << (page % 64);
      std::uint64_t& word = segment.words[page / 64];
      // Never a hole: reading one would allocate it.
      if ((word & bit) == 0 && is_zero(memory.data() + page * kPageSize)) word |= bit;
    }
    return {};
  }

  Status collect() {
    set_.clear_all();
    const auto begin = Clock::now();
    MIGRATE_TRY(tracker_.collect(set_));
    collected_at_ = Clock::now();
    collects_.push_back(std::chrono::duration_cast<microseconds>(collected_at_ - begin));
    if (tracker_.rearms_in_collect()) return {};
    for (const Region& region : trace_.regions) {
      MIGRATE_TRY(tracker_.rearm(set_, region.id, region.range));
    }
    return {};
  }

  Status sample() {
    MIGRATE_TRY(collect());
    TraceSample& sample = trace_.samples.emplace_back();
    sample.took = std::max(microseconds(1),
                           std::chrono::duration_cast<microseconds>(collected_at_ - begun_sample_));
    begun_sample_ = collected_at_;
    sample.dirtied = forecast::number_pages(set_);
    runs_ += sample.dirtied.size();
    const std::vector<std::uint64_t> now = tracker_.written_by_vcpu();
    for (std::size_t vcpu = 0; vcpu < now.size(); ++vcpu) {
      sample.by_vcpu.push_back(now[vcpu] - (vcpu < by_vcpu_.size() ? by_vcpu_[vcpu] : 0));
    }
    by_vcpu_ = now;
    return {};
  }

  Status wait_until(Clock::time_point time) {
    for (;;) {
      const auto left = std::chrono::ceil<milliseconds>(time - Clock::now());
      if (left.count() <= 0) return check_cancelled(milliseconds(0));
      MIGRATE_TRY(check_cancelled(left));
    }
  }

  /// Waits for the cancelling, at most so long.
  Status check_cancelled(milliseconds wait) const {
    pollfd cancel{options_.cancel_fd, POLLIN, 0};
    // A negative descriptor is never ready; a signal only makes the wait shorter.
    if (::poll(&cancel, 1, static_cast<int>(wait.count())) <= 0) return {};
    return make_error(ErrorCode::kCancelled, "recording the guest's writes was cancelled");
  }

  SourceGuest& guest_;
  DirtyTracker& tracker_;
  const TraceOptions options_;
  const Clock::time_point begun_;
  const Clock::time_point deadline_;
  Clock::time_point begun_sample_;
  Clock::time_point collected_at_;
  std::vector<microseconds> collects_;
  std::vector<std::uint64_t> by_vcpu_;
  std::size_t runs_ = 0;
  PageBitmap set_;
  DirtyTrace trace_;
};

Error out_of_range(const char* what, microseconds value, microseconds least, microseconds most) {
  return make_error(ErrorCode::kInvalidArgument,
                    std::string(what) + " of " + format_duration(value) + " is not possible")
      .advise("give " + format_duration(least) + " to " + format_duration(most));
}

}  // namespace

Status check(const TraceOptions& options) {
  if (options.duration < kDurationMin || options.duration > kDurationMax) {
    return out_of_range("recording", options.duration, kDurationMin, kDurationMax);
  }
  if (options.interval < kIntervalMin || options.interval > kIntervalMax) {
    return out_of_range("an interval", options.interval, kIntervalMin, kIntervalMax);
  }
  if (options.interval * 2 > options.duration * (kWarmUpShare - 1) / kWarmUpShare) {
    return make_error(ErrorCode::kInvalidArgument, "the recording has less than two intervals")
        .advise("record for longer, or by shorter intervals");
  }
  return {};
}

Result<DirtyTrace> record_trace(SourceGuest& guest, const TraceOptions& options) {
  MIGRATE_TRY(check(options));
  return Recorder(guest, options).record();
}

}  // namespace migrate
