#include "postcopy/pace_control.hpp"

#include <algorithm>

namespace migrate::postcopy {
namespace {

// Where a search begins: less than 1 Gbit/s, and beyond 10 after four steps.
constexpr double kStart = 100e6;
// Slower than any link that a guest is moved over.
constexpr double kRateMin = 1e6;
// A queue shorter than this is noise: a demand's round trip and the fault's own costs are some tens
// of microseconds each.
constexpr std::chrono::microseconds kQueueShort{150};
// On a long way noise is larger: this part of the round trip.
constexpr int kQueuePart = 8;
// Empties a queue of 3 ms within one step.
constexpr double kDrain = 0.7;
// After a change: round trips are smoothed over some of them.
constexpr int kSettleSteps = 2;
// A queue that comes back within so many steps, twice, or that stays, is no accident of a busy
// host: less is carried than was thought. A little less, or much less where it stays; down to half
// of what has been proven, for a queue that stays even then is not ours.
constexpr int kAccident = 8;
constexpr int kStrikes = 2;
constexpr double kCut = 0.9;
constexpr int kStays = 3;
constexpr double kCutMore = 0.7;
constexpr double kLeast = 0.5;
// A round trip is smoothed over many: one that has shrunk so much tells of the past.
constexpr double kShrinks = 0.9;
// Acknowledged so much faster than is allowed, between the pauses that a pace makes.
constexpr double kNotFull = 2;
// Halved in about 7 s: others may have taken a share of the link for good.
constexpr double kFade = 0.999;
// Less than this part of what is allowed came through: something else is the limit. Told over so
// long that a thread that was not scheduled, and what fits a socket, do not count.
constexpr double kMostOfIt = 0.9;
constexpr double kWindowSeconds = 0.05;
constexpr double kWindowBytes = 4e6;
// Faster only where this much of what is allowed came in a step.
constexpr double kEnough = 0.7;
// Half a second between tries, of which each ends with some milliseconds of a queue; where they
// find nothing new, up to 3 s, so that fewer than one demand in 100 meets it.
constexpr int kHoldSteps = 50;
constexpr int kHoldStepsMax = 300;
// A try: by a hundredth each step, and where that finds nothing faster and faster.
constexpr double kGrowth = 0.01;
constexpr double kGrowthMore = 1.5;
constexpr double kGrowthMax = 0.25;
// Less than this when a try ends: it has found what was known.
constexpr double kGrowthNews = 0.05;
// A capacity that is less than it was is doubted, and tried soon.
constexpr double kDoubted = 0.8;
constexpr int kHoldDoubted = 10;

}  // namespace

PaceControl::PaceControl(const Limits& limits)
    : limits_(limits),
      capacity_(limits.capacity_bytes_per_s > 0 ? static_cast<double>(limits.capacity_bytes_per_s)
                                                : kStart),
      share_(limits.capacity_bytes_per_s > 0 ? kShare : 1),
      growth_(kGrowth),
      searching_(limits.capacity_bytes_per_s == 0),
      hold_(kHoldSteps),
      hold_next_(kHoldSteps),
      clean_(kAccident) {}

double PaceControl::allowed() const {
  const double rate = std::max(capacity_ * share_, kRateMin);
  return limits_.bytes_per_s_max > 0 ? std::min(rate, static_cast<double>(limits_.bytes_per_s_max))
                                     : rate;
}

std::uint64_t PaceControl::bytes_per_s() const { return static_cast<std::uint64_t>(allowed()); }

void PaceControl::step(const Sample& sample) {
  if (sample.took.count() <= 0) return;
  const double seconds = std::chrono::duration<double>(sample.took).count();
  const double came = static_cast<double>(sample.bytes) / seconds;
  proven_ *= kFade;
  if (settle_ > 0) {
    --settle_;
    return;
  }
  const bool shrinks = std::chrono::duration<double>(sample.round_trip) <
                       kShrinks * std::chrono::duration<double>(round_trip_);
  round_trip_ = sample.round_trip;
  window_.bytes += static_cast<double>(sample.bytes);
  window_.allowed += seconds * allowed();
  window_.seconds += seconds;
  const bool queue = sample.round_trip - sample.round_trip_min >
                     std::max(kQueueShort, sample.round_trip_min / kQueuePart);
  // A link that is full delivers as fast as it is sent to, not faster: this host was busy.
  const bool full = sample.delivered_bytes_per_s == 0 ||
                    static_cast<double>(sample.delivered_bytes_per_s) < kNotFull * allowed();
  if (queue && (shrinks || !full)) {
    settle_ = kSettleSteps;
    window_ = {};
  } else if (queue) {
    step_back(came);
  } else if (sample.hungry) {
    window_ = {};
  } else if (double capacity = 0; falls_short(capacity)) {
    found(capacity, capacity < kDoubted * capacity_ ? kHoldDoubted : kHoldSteps);
  } else if (searching_) {
    search(came);
  } else {
    go_on(came);
  }
}

bool PaceControl::falls_short(double& capacity) {
  if (window_.seconds < kWindowSeconds || window_.allowed < kWindowBytes) return false;
  const bool is_short = window_.bytes < kMostOfIt * window_.allowed;
  capacity = window_.bytes / window_.seconds;
  if (!is_short) proven_ = std::max(proven_, capacity);
  window_ = {};
  return is_short;
}

void PaceControl::search(double came) {
  if (came >= kEnough * allowed() && allowed() >= capacity_) capacity_ *= 2;
}

void PaceControl::found(double capacity, int hold) {
  searching_ = false;
  capacity_ = std::max({capacity, kLeast * proven_, kRateMin});
  share_ = kShare;
  growth_ = kGrowth;
  settle_ = kSettleSteps;
  clean_ = 0;
  hold_ = hold;
  window_ = {};
}

bool PaceControl::is_accident() {
  strikes_ = clean_ < kAccident ? strikes_ + 1 : 0;
  return queues_ == 1 && strikes_ < kStrikes;
}

// What came in one step is the least that the link carries, never the most: a thread may have not
// been scheduled, which makes round trips longer, too.
void PaceControl::step_back(double came) {
  const double rate = allowed();
  ++queues_;
  if (searching_) {
    // Half of it made no queue.
    found(std::clamp(came, rate / 2, rate), kHoldDoubted);
  } else if (share_ >= 1) {
    hold_next_ = growth_ < kGrowthNews ? std::min(2 * hold_next_, kHoldStepsMax) : kHoldSteps;
    found(std::clamp(came, kShare * rate, rate), hold_next_);
  } else if (!is_accident()) {
    strikes_ = 0;
    hold_next_ = kHoldSteps;
    const double cut = queues_ < kStays ? kCut : kCutMore;
    found(std::clamp(came, cut * capacity_, capacity_), kHoldDoubted);
  } else {
    clean_ = 0;
    settle_ = kSettleSteps;
    window_ = {};
  }
  share_ = kDrain;
}

void PaceControl::go_on(double came) {
  queues_ = 0;
  const double rate = allowed();
  if (rate < capacity_ * share_ || came < kEnough * rate) return;
  if (share_ < kShare) {
    share_ = kShare;
    window_ = {};
    return;
  }
  ++clean_;
  if (hold_ > 0) {
    --hold_;
    return;
  }
  share_ *= 1 + growth_;
  if (share_ <= 1) return;
  // More than was known.
  capacity_ *= share_;
  share_ = 1;
  growth_ = std::min(growth_ * kGrowthMore, kGrowthMax);
}

}  // namespace migrate::postcopy
