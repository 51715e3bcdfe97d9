#include "postcopy/push_pace.hpp"

#include <algorithm>

#include "migrate/memory.hpp"

namespace migrate::postcopy {
namespace {

// What waits in a lane's socket beyond the packets under way: enough that it never runs dry between
// two wake-ups of its thread, and no more, for what is in it cannot be overtaken.
constexpr std::size_t kUnsentMin = 128 << 10;
constexpr std::size_t kUnsentMax = 1 << 20;
constexpr double kUnsentSeconds = 1e-3;

// A record takes about so long to leave: what is asked for next waits for it. 64 pages at 1 Gbit/s.
constexpr double kRecordSeconds = 2e-3;
constexpr double kPagesMin = 16;
constexpr double kPagesMax = 256;
// Where nothing is known of the link.
constexpr std::uint64_t kPagesUnknown = 64;

}  // namespace

PushPace::PushPace(const PaceControl::Limits& limits, std::size_t lanes, Time now)
    : limited_(limits.bytes_per_s_max > 0), control_(limits), lanes_(lanes), stepped_(now) {}

Pace PushPace::pace() const {
  const double rate =
      static_cast<double>(control_.bytes_per_s()) / static_cast<double>(lanes_.size());
  const auto unsent = static_cast<std::size_t>(rate * kUnsentSeconds);
  return {static_cast<std::uint64_t>(rate), std::clamp(unsent, kUnsentMin, kUnsentMax)};
}

std::uint64_t PushPace::pages_at_once() const {
  MutexLock lock(mutex_);
  if (!known_ && !limited_) return kPagesUnknown;
  const double rate =
      static_cast<double>(control_.bytes_per_s()) / static_cast<double>(lanes_.size());
  return static_cast<std::uint64_t>(
      std::clamp(rate * kRecordSeconds / kPageSize, kPagesMin, kPagesMax));
}

void PushPace::note(std::size_t lane, Channel& channel, std::uint64_t bytes, bool hungry,
                    Time now) {
  Pace fresh;
  {
    MutexLock lock(mutex_);
    Lane& mine = lanes_[lane];
    sample_.bytes += bytes;
    sample_.hungry |= hungry;
    if (now - mine.asked >= PaceControl::kStep / 2) {
      mine.link = channel.link_state();
      mine.asked = now;
    }
    // Where nothing is known of the link nothing is held back: queues are this host's own.
    if (mine.link.round_trip.count() == 0) return;
    known_ = true;
    const auto pause = std::max<std::chrono::nanoseconds>(PaceControl::kStep, mine.link.round_trip);
    if (now - stepped_ >= pause) step(now);
    if (mine.version == version_) return;
    mine.version = version_;
    fresh = pace();
  }
  channel.set_pace(fresh);
}

void PushPace::step(Time now) {
  sample_.took = now - stepped_;
  auto queue = std::chrono::microseconds(-1);
  for (const Lane& lane : lanes_) {
    // What has been silent for long tells of the past.
    if (now - lane.asked > 2 * sample_.took) continue;
    sample_.delivered_bytes_per_s += lane.link.delivered_bytes_per_s;
    const auto longer = lane.link.round_trip - lane.link.round_trip_min;
    if (longer <= queue) continue;
    queue = longer;
    sample_.round_trip = lane.link.round_trip;
    sample_.round_trip_min = lane.link.round_trip_min;
  }
  const std::uint64_t before = control_.bytes_per_s();
  control_.step(sample_);
  sample_ = {};
  stepped_ = now;
  if (control_.bytes_per_s() != before) ++version_;
}

}  // namespace migrate::postcopy
