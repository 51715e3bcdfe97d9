#include "precopy/throttle_controller.hpp"

#include <algorithm>
#include <cmath>

namespace migrate::precopy {
namespace {

// Before so much of a round is sent, what it leaves cannot be told; after that, it cannot be
// changed.
constexpr double kEarliest = 0.1;
constexpr double kLatest = 0.9;
// One sample changes a writer's run time by no more than this, either way; what has come of it is
// seen in the next ones.
constexpr double kCutMost = 0.6;
constexpr double kRaiseMost = 1.15;
// Of what would be needed, in one step: in the round, where the next sample is near, and at its
// end. Back up goes more slowly: a budget that is not used up costs less than one that is
// overdrawn.
constexpr double kStep = 0.4;
constexpr double kStepAtEnd = 0.7;
constexpr double kStepUp = 0.3;
// The newest sample's part in a writer's pace, and the least that must have been sent since the
// last one for it to tell.
constexpr double kNewPace = 0.4;
constexpr double kTellingPart = 0.004;
// A writer that is let run this much is let run.
constexpr double kFree = 0.98;
// Changes below this are not worth a kick of a vCPU.
constexpr double kDeadBand = 0.01;
// Of an equal part of the budget: who dirties less is never held.
constexpr double kInnocent = 0.5;
constexpr double kPress = 0.7;
constexpr double kTargetLeast = 0.2;
// Rounds until a set stands still, at most; and how still.
constexpr int kFloorRounds = 200;
constexpr double kStill = 0.001;
// The newest round's part in what is known of rounds.
constexpr double kNewCourse = 0.5;
constexpr std::ptrdiff_t kTellingSamples = 3;

}  // namespace

// ---- Course ---------------------------------------------------------------------------------

std::array<double, ThrottleController::Course::kSteps> ThrottleController::Course::linear() {
  std::array<double, kSteps> parts{};
  for (std::size_t i = 0; i < kSteps; ++i) {
    parts[i] = static_cast<double>(i + 1) / static_cast<double>(kSteps);
  }
  return parts;
}

void ThrottleController::Course::note(double progress, double dirtied) {
  const auto step = static_cast<std::size_t>(progress * static_cast<double>(kSteps));
  if (step > 0) seen_[std::min(step, kSteps) - 1] = dirtied;
}

/// What no sample has told lies between those that have; rounds with too few teach nothing.
void ThrottleController::Course::end(double dirtied) {
  const auto known = std::count_if(seen_.begin(), seen_.end(), [](double d) { return d > 0; });
  if (known < kTellingSamples || !(dirtied > 0)) return;
  seen_.back() = dirtied;
  double before = 0;
  std::size_t first = 0;
  for (std::size_t i = 0; i < kSteps; ++i) {
    if (seen_[i] == 0) continue;
    const double now = std::min(1.0, seen_[i] / dirtied);
    for (std::size_t j = first; j <= i; ++j) {
      const double at = static_cast<double>(j + 1 - first) / static_cast<double>(i + 1 - first);
      part_[j] += kNewCourse * (before + (now - before) * at - part_[j]);
    }
    before = now;
    first = i + 1;
  }
}

double ThrottleController::Course::part_at(double progress) const {
  const double at = progress * static_cast<double>(kSteps);
  const auto step = std::min(static_cast<std::size_t>(at), kSteps - 1);
  const double before = step == 0 ? 0 : part_[step - 1];
  const double part = before + (part_[step] - before) * (at - static_cast<double>(step));
  return std::clamp(part, 0.02, 1.0);
}

// ---- The controller -------------------------------------------------------------------------

ThrottleController::ThrottleController(std::uint32_t vcpus, double most)
    : most_(most), writers_(1), shares_(std::max(1u, vcpus), 0.0) {}

void ThrottleController::begin_round(std::uint64_t set_pages) {
  // As in the round before, by its size.
  const double size = set_pages_ > 0 ? static_cast<double>(set_pages) / set_pages_ : 1;
  set_pages_ = static_cast<double>(set_pages);
  sampled_ms_ = ran_ms_ = part_ = 0;
  course_.begin();
  for (Writer& writer : writers_) {
    writer.pace = writer.dirtied * size;
    writer.dirtied = writer.paced = 0;
  }
}

/// Writers are told apart from the first sample that does so.
void ThrottleController::attribute(const DirtySample& sample) {
  if (sample.by_vcpu.size() == shares_.size() && writers_.size() != shares_.size()) {
    writers_.assign(shares_.size(), writers_.front());
  }
  for (std::size_t i = 0; i < writers_.size(); ++i) {
    writers_[i].dirtied = static_cast<double>(
        writers_.size() > 1 && i < sample.by_vcpu.size() ? sample.by_vcpu[i] : sample.dirtied);
  }
}

void ThrottleController::count_time(const DirtySample& sample) {
  const double passed = std::max(0.0, sample.ms - sampled_ms_);
  sampled_ms_ += passed;
  ran_ms_ += passed * (1 - mean_share());
}

void ThrottleController::note(const DirtySample& sample) {
  count_time(sample);
  attribute(sample);
  // Later rounds begin with pages that are dirty already, and these are armed one after another:
  // half of such a round says nothing of a round half as long.
  if (clean_start_) curve_.note(sample.ms, static_cast<double>(sample.dirtied));
  if (!(set_pages_ > 0)) return;
  const double progress = 1 - static_cast<double>(sample.left_pages) / set_pages_;
  course_.note(progress, static_cast<double>(sample.dirtied));
  if (!engaged_ || progress < kEarliest || progress > kLatest) return;
  follow_pace(course_.part_at(progress));
  double written = 0;
  for (Writer& writer : writers_) {
    written += writer.dirtied;
    writer.to_come = writer.pace * (1 - part_);
    writer.whole = writer.dirtied + writer.to_come;
  }
  steer(std::max(0.0, target_ * set_pages_ - written), kStep);
}

/// How fast each writer dirties now, as what a whole round at that pace would come to.
void ThrottleController::follow_pace(double part) {
  if (part - part_ < kTellingPart) return;
  for (Writer& writer : writers_) {
    const double pace = std::max(0.0, writer.dirtied - writer.paced) / (part - part_);
    writer.pace += kNewPace * (pace - writer.pace);
    writer.paced = writer.dirtied;
  }
  part_ = part;
}

void ThrottleController::end_round(const DirtySample& sample) {
  count_time(sample);
  attribute(sample);
  curve_.note(sample.ms, static_cast<double>(sample.dirtied));
  course_.end(static_cast<double>(sample.dirtied));
  clean_start_ = false;
  if (!engaged_ || !(set_pages_ > 0)) return;
  steer_by_whole_round();
}

/// The next round is like the one that has ended.
void ThrottleController::steer_by_whole_round() {
  for (Writer& writer : writers_) writer.whole = writer.to_come = writer.dirtied;
  steer(target_ * set_pages_, kStepAtEnd);
}

/// Lets each writer run as much more or less as brings what it is about to dirty to its part of
/// `budget`.
void ThrottleController::steer(double budget, double step) {
  // Water is poured in from below: who needs less than an equal part gets it, the rest is shared.
  std::vector<double> sorted;
  for (const Writer& writer : writers_) sorted.push_back(writer.to_come);
  std::sort(sorted.begin(), sorted.end());
  double rest = budget;
  double level = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    level = rest / static_cast<double>(sorted.size() - i);
    if (sorted[i] > level) break;
    rest -= sorted[i];
    level = sorted[i];
  }
  const bool fits = sorted.back() <= level;
  const double innocent = kInnocent * target_ * set_pages_ / static_cast<double>(writers_.size());
  // Each may have an equal part of what is to spare.
  const double spare = budget / static_cast<double>(writers_.size());
  for (Writer& writer : writers_) {
    // By what it would dirty if it were let run.
    const bool is_innocent = writers_.size() > 1 && writer.whole / writer.run < innocent;
    double wanted = 1;
    if (fits) {
      wanted = writer.to_come > 0 ? std::max(spare, writer.to_come) / writer.to_come : 2;
    } else if (writer.to_come > level) {
      wanted = level / writer.to_come;
    }
    const double power = wanted > 1 ? step * kStepUp : step;
    const double factor = is_innocent ? kRaiseMost : std::pow(std::max(wanted, 1e-3), power);
    writer.run = std::clamp(writer.run * std::clamp(factor, kCutMost, kRaiseMost), 1 - most_, 1.0);
    if (writer.run > kFree && factor > 1) writer.run = 1;
  }
  publish();
}

void ThrottleController::engage() {
  engaged_ = true;
  target_ = kRhoTarget;
  // What the latest round has left is known: no need to wait for the next one to begin with.
  if (!(set_pages_ > 0)) return;
  steer_by_whole_round();
}

bool ThrottleController::press() {
  if (target_ <= kTargetLeast) return false;
  target_ = std::max(kTargetLeast, target_ * kPress);
  return true;
}

void ThrottleController::release() {
  engaged_ = false;
  for (Writer& writer : writers_) writer.run = 1;
  publish();
}

void ThrottleController::publish() {
  for (std::size_t i = 0; i < shares_.size(); ++i) {
    const double share = 1 - writers_[writers_.size() > 1 ? i : 0].run;
    if (share == 0 || std::abs(share - shares_[i]) >= kDeadBand) shares_[i] = share;
  }
}

double ThrottleController::mean_share() const {
  double sum = 0;
  for (const double share : shares_) sum += share;
  return sum / static_cast<double>(shares_.size());
}

double ThrottleController::mean_run_share_of_round() const {
  return sampled_ms_ > 0 ? ran_ms_ / sampled_ms_ : 1 - mean_share();
}

double ThrottleController::floor_pages(double set_pages, double ms_per_page) const {
  double pages = set_pages;
  for (int i = 0; i < kFloorRounds; ++i) {
    const double next = dirtied_after(pages * ms_per_page);
    const double change = std::abs(next - pages);
    pages = next;
    if (pages < 1 || change < kStill * pages) break;
  }
  return pages < 1 ? 0 : pages;
}

}  // namespace migrate::precopy
