#include "checkpoint/write_log.hpp"

#include <algorithm>
#include <utility>

namespace migrate::checkpoint {
namespace {

/// Re-armed by one call: KVM holds the guest's faults back meanwhile.
constexpr std::uint64_t kWindowPages = 16384;

}  // namespace

Status WriteLog::follow(std::span<const Region> regions) {
  const std::vector<Region> known = written_.regions();
  // Another layout: what the tracker knows of is not what the guest has.
  if (tracking_ && !std::ranges::equal(known, regions)) stop();
  if (!tracking_) {
    written_ = PageBitmap(regions);
    collected_ = written_;
    MIGRATE_TRY(tracker_.start());
    tracking_ = true;
  }
  return collect();
}

Status WriteLog::take() { return collect(); }

Status WriteLog::collect() {
  const auto work = [&]() -> Status {
    collected_.clear_all();
    MIGRATE_TRY(tracker_.collect(collected_));
    if (!tracker_.rearms_in_collect()) {
      for (const auto& segment : collected_.segments()) MIGRATE_TRY(rearm(segment));
    }
    return {};
  };
  Status done = work();
  if (done) {
    written_.merge(collected_);
  } else {
    // What was taken and what was re-armed is not known any more.
    stop();
  }
  return done;
}

Status WriteLog::rearm(const PageBitmap::Segment& segment) {
  const PageRange all = segment.region.range;
  for (GuestPage first = all.first; first < all.end();) {
    const PageRange window{first, std::min(kWindowPages, all.end() - first)};
    first = window.end();
    if (next_run(segment, window.first, window.end()).empty()) continue;
    MIGRATE_TRY(tracker_.rearm(collected_, segment.region.id, window));
  }
  return {};
}

void WriteLog::begin_anew(std::string id) {
  written_.clear_all();
  since_ = std::move(id);
}

void WriteLog::stop() {
  since_.clear();
  if (!std::exchange(tracking_, false)) return;
  (void)tracker_.stop();
}

}  // namespace migrate::checkpoint
