#include "transport/compression_policy.hpp"

#include <algorithm>

namespace migrate {
namespace {

// Averages follow a change within some ten batches (10 MiB) and smooth the noise of single ones.
constexpr double kWeight = 0.12;
// The share of batches that shrink is a yes or no each: it takes more of them to know.
constexpr double kShareWeight = 0.05;

// After a change the socket's queue (some 4 MiB) is the former way's: what waits says nothing yet.
constexpr std::uint64_t kUnlearned = 8;
// Batches on a way before it is judged.
constexpr std::uint64_t kJudged = 20;

// At first the socket's queue fills and nothing waits. Then a slow link holds every batch for
// nearly all of its time: two in a row are no accident, and some more say how slow it is.
constexpr double kHeldShare = 0.7;
constexpr std::uint64_t kHeld = 2;
constexpr std::uint64_t kHeldJudged = 5;

// A sample of 32 KiB takes 0.1 ms, a batch at 5 GB/s 0.2 ms: one in so many batches is under 1 %.
constexpr std::uint64_t kSampleEvery = 48;
// While levels are unknown, they are sampled one after the other.
constexpr std::uint64_t kFirstSampleEvery = 4;

// What is promised must be less than this part of what is, and what was measured before less than
// that: noise would turn the choice over and over.
constexpr double kPromised = 0.85;
constexpr double kProven = 0.97;

// A smaller part of waiting is noise.
constexpr double kWaits = 0.05;

// The other way is tried for some 20 batches, at worst at 2.5 times the cost: of 2048 and more,
// under 1.5 %. Less patience at first, when little is known.
constexpr std::uint64_t kPatienceMax = 8192;

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

void average(double& value, double sample, double weight) {
  value = value == 0 ? sample : value + weight * (sample - value);
}

}  // namespace

CompressionPolicy::Plan CompressionPolicy::next() const {
  switch (choice_.mode) {
    case CompressionChoice::Mode::kNone:
      return {};
    case CompressionChoice::Mode::kZstd:
      return {choice_.level, std::nullopt};
    case CompressionChoice::Mode::kAuto:
      break;
  }
  const std::optional<int> curious = level_to_sample();
  if (way_ == Way::kAsIs) return {std::nullopt, curious};
  // Always with a sample: what comes may have become incompressible.
  return {kLevels[level_], curious.value_or(kLevels[level_])};
}

std::optional<int> CompressionPolicy::level_to_sample() const {
  const auto unknown =
      std::find_if(levels_.begin(), levels_.end(), [](const Level& level) { return !level.known; });
  std::uint64_t every = unknown != levels_.end() ? kFirstSampleEvery : kSampleEvery;
  if (unknown != levels_.end() && held_ >= kHeld) every = 1;
  if (batches_ % every != 0) return std::nullopt;
  // Where the lane hardly waits, there is no time for packing to fill.
  const Measured& now = measured(Way::kAsIs);
  if (way_ == Way::kAsIs && now.work > kPromised * now.time) return std::nullopt;
  if (unknown != levels_.end()) return kLevels[static_cast<std::size_t>(unknown - levels_.begin())];
  return kLevels[batches_ / every % kLevels.size()];
}

double CompressionPolicy::promise(std::size_t level) const {
  const Level& one = levels_[level];
  const Measured& as_is = measured(Way::kAsIs);
  const double ratio = shrinking_ * one.ratio + (1 - shrinking_);
  return std::max(as_is.work + shrinking_ * one.seconds_per_byte, ratio * as_is.time);
}

std::optional<std::size_t> CompressionPolicy::most_promising() const {
  std::optional<std::size_t> best;
  for (std::size_t level = 0; level < kLevels.size(); ++level) {
    if (!levels_[level].known) return std::nullopt;
    if (!best || promise(level) < promise(*best)) best = level;
  }
  return best;
}

void CompressionPolicy::learn_levels(const Batch& batch, const Plan& plan) {
  const auto learn = [this](int level, double seconds_per_byte, double ratio) {
    for (std::size_t i = 0; i < kLevels.size(); ++i) {
      if (kLevels[i] != level) continue;
      Level& one = levels_[i];
      if (!one.known) one = {seconds_per_byte, ratio, true};
      average(one.seconds_per_byte, seconds_per_byte, kWeight);
      average(one.ratio, ratio, kWeight);
    }
  };
  const auto content = static_cast<double>(batch.content);
  if (batch.packed) {
    learn(*batch.packed, seconds(batch.packing) / content,
          static_cast<double>(batch.sent) / content);
  }
  if (!plan.sample || batch.sampled == 0) return;
  const bool shrinks = compressible(batch.sampled, batch.sampled_to);
  shrinking_ += kShareWeight * ((shrinks ? 1 : 0) - shrinking_);
  if (!shrinks || batch.packed == plan.sample) return;
  const auto sampled = static_cast<double>(batch.sampled);
  learn(*plan.sample, seconds(batch.sampling) / sampled,
        static_cast<double>(batch.sampled_to) / sampled);
}

/// A short transfer over a slow link should not be over before the link is known.
void CompressionPolicy::watch_the_link(const Batch& batch) {
  if (!is_first_way()) {
    held_ = 0;
    return;
  }
  const bool held = seconds(batch.waiting) > kHeldShare * seconds(batch.took);
  held_ = held ? held_ + 1 : 0;
  // What came before was the queue's time, not the link's.
  if (held_ == kHeld) measured(way_) = {};
}

void CompressionPolicy::note(const Batch& batch, const Plan& plan) {
  if (choice_.mode != CompressionChoice::Mode::kAuto || batch.content == 0) return;
  ++batches_;
  learn_levels(batch, plan);
  watch_the_link(batch);
  if (on_this_way() > kUnlearned || held_ >= kHeld) {
    const auto content = static_cast<double>(batch.content);
    const auto work = batch.took - batch.waiting - batch.packing - batch.sampling;
    Measured& now = measured(way_);
    average(now.time, seconds(batch.took) / content, kWeight);
    average(now.work, std::max(0.0, seconds(work)) / content, kWeight);
    average(now.waiting, seconds(batch.waiting) / content, kWeight);
  }
  choose();
}

void CompressionPolicy::take(Way way) {
  way_ = way;
  since_ = batches_;
  // Of another time: measured anew.
  measured(way) = {};
}

void CompressionPolicy::choose() {
  if (on_this_way() < kJudged && held_ < kHeldJudged) return;
  const auto level = most_promising();
  const Way other = way_ == Way::kAsIs ? Way::kPacked : Way::kAsIs;
  const double now = measured(way_).time;
  const double before = measured(other).time;
  if (way_ == Way::kPacked) {
    if (level && promise(*level) < kPromised * promise(level_)) level_ = *level;
    if (before < now) {
      // It did not keep what it promised.
      patience_ = std::min(2 * patience_, kPatienceMax);
      return take(other);
    }
    // While packed batches wait, the link is the limit, and more bytes would wait longer.
    const bool limited = measured(way_).waiting > kWaits * now;
    if (on_this_way() < (limited ? kPatienceMax : patience_)) return;
    patience_ = std::min(2 * patience_, kPatienceMax);
    return take(other);
  }
  if (before != 0 && before < kProven * now) return take(other);
  // Tried and found wanting, or never tried.
  if (before != 0 && on_this_way() < patience_) return;
  if (!level || promise(*level) >= kPromised * now) return;
  level_ = *level;
  take(other);
}

}  // namespace migrate
