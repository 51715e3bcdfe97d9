#include "transport/compression_policy.hpp"

#include <algorithm>

namespace migrate {
namespace {

// Averages follow a change within some ten batches (10 MiB) and smooth the noise of single ones.
constexpr double kWeight = 0.15;

// A sample of 32 KiB takes 0.1 ms, a batch at 5 GB/s 0.2 ms: one in so many batches is under 1 %.
constexpr std::uint64_t kSampleEvery = 48;
// While levels are unknown, they are sampled one after the other.
constexpr std::uint64_t kFirstSampleEvery = 4;

// Going back to batches as they are, to see whether the link has become faster: 6 of 512 batches.
// If it has not, they take up to 2.5 times as long: under 2 %.
constexpr std::uint64_t kTryEvery = 512;
constexpr std::uint64_t kTryFor = 6;

// The share of batches that shrink is a yes or no each: it takes more of them to know.
constexpr double kShareWeight = 0.05;

// A link that has become faster is seen in the six batches of a try, or in the next one.
constexpr double kFasterWeight = 0.3;

// For a link on which nothing moved while a batch was made: 10 kB/s.
constexpr double kRateMin = 1e4;

// So many batches fill a socket's queue of 4 MiB, packed to a half.
constexpr std::uint64_t kSameWayMin = 3;

// A change of mind costs a queue of the other kind first.
constexpr std::uint64_t kStay = 10;

// Another way must promise at least so much, or noise would turn the choice over and over.
constexpr double kGain = 0.95;

// A queue shorter than this may have been empty in between, and says nothing of the link's rate.
constexpr std::size_t kQueueMin = 128 << 10;

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

void average(double& value, double sample, double weight) {
  value = value == 0 ? sample : value + weight * (sample - value);
}

std::optional<std::size_t> index_of(int level) {
  const auto found =
      std::find(CompressionPolicy::kLevels.begin(), CompressionPolicy::kLevels.end(), level);
  if (found == CompressionPolicy::kLevels.end()) return std::nullopt;
  return static_cast<std::size_t>(found - CompressionPolicy::kLevels.begin());
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
  if (chosen_ && !tries_as_is()) {
    // Always with a sample: what comes may have become incompressible.
    return {kLevels[*chosen_], curious.value_or(kLevels[*chosen_])};
  }
  // Where the link takes all there is at once, no level can pay.
  if (!rate_as_is_) return {};
  return {std::nullopt, curious};
}

std::optional<int> CompressionPolicy::level_to_sample() const {
  const auto unknown =
      std::find_if(levels_.begin(), levels_.end(), [](const Level& level) { return !level.known; });
  if (unknown != levels_.end()) {
    if (batches_ % kFirstSampleEvery != 0) return std::nullopt;
    return kLevels[static_cast<std::size_t>(unknown - levels_.begin())];
  }
  if (batches_ % kSampleEvery != 0) return std::nullopt;
  return kLevels[batches_ / kSampleEvery % kLevels.size()];
}

bool CompressionPolicy::tries_as_is() const {
  // While packed batches queue, the link is the limit, and no faster than was thought.
  return chosen_ && !queue_was_busy_ && (batches_ - chosen_at_) % kTryEvery >= kTryEvery - kTryFor;
}

double CompressionPolicy::cost_as_is() const {
  return std::max(work_per_byte_, rate_as_is_ ? 1 / *rate_as_is_ : 0);
}

double CompressionPolicy::cost_packed(std::size_t level) const {
  const Level& one = levels_[level];
  const auto& rate = rate_packed_ && chosen_ ? rate_packed_ : rate_as_is_;
  const double ratio = shrinking_ * one.ratio + (1 - shrinking_);
  return std::max(work_per_byte_ + shrinking_ * one.seconds_per_byte, rate ? ratio / *rate : 0);
}

void CompressionPolicy::learn_rate(const Batch& batch) {
  const double took = seconds(batch.took);
  const double drained = static_cast<double>(queued_ - std::min(queued_, batch.queued));
  // What drained must have left in one way, or packed and unpacked bytes mix.
  if (took > 0 && queued_ > 0 && same_way_ >= kSameWayMin) {
    auto& rate = was_packed_ ? rate_packed_ : rate_as_is_;
    const double sample = drained / took;
    const bool limit = batch.limited || (queue_was_busy_ && batch.queued >= kQueueMin);
    if (limit && (!rate || sample < *rate)) {
      // Averaged as time a byte: one slow batch weighs what it cost.
      double time = rate ? 1 / *rate : 0;
      average(time, sample > 0 ? 1 / sample : 1 / kRateMin, kWeight);
      rate = 1 / time;
    } else if (rate && sample > *rate) {
      // Also where the queue ran empty: the link takes at least this much.
      average(*rate, sample, kFasterWeight);
    }
  }
  const bool packed = batch.packed.has_value();
  same_way_ = packed == was_packed_ ? same_way_ + 1 : 0;
  was_packed_ = packed;
  queue_was_busy_ = batch.queued >= kQueueMin;
  queued_ = batch.queued + batch.sent;
}

void CompressionPolicy::learn_level(int level, double seconds_per_byte, double ratio) {
  const auto index = index_of(level);
  if (!index) return;
  Level& one = levels_[*index];
  if (!one.known) one = {seconds_per_byte, ratio, true};
  average(one.seconds_per_byte, seconds_per_byte, kWeight);
  average(one.ratio, ratio, kWeight);
}

void CompressionPolicy::learn_levels(const Batch& batch, const Plan& plan) {
  const auto content = static_cast<double>(batch.content);
  const bool own_sample = batch.packed && batch.packed == plan.sample;
  if (batch.packed) {
    const auto packing = own_sample ? batch.packing + batch.sampling : batch.packing;
    learn_level(*batch.packed, seconds(packing) / content,
                static_cast<double>(batch.sent) / content);
  }
  if (!plan.sample || batch.sampled == 0) return;
  const bool shrinks = compressible(batch.sampled, batch.sampled_to);
  shrinking_ += kShareWeight * ((shrinks ? 1 : 0) - shrinking_);
  if (!shrinks || own_sample) return;
  const auto sampled = static_cast<double>(batch.sampled);
  learn_level(*plan.sample, seconds(batch.sampling) / sampled,
              static_cast<double>(batch.sampled_to) / sampled);
}

void CompressionPolicy::note(const Batch& batch, const Plan& plan) {
  ++batches_;
  if (choice_.mode != CompressionChoice::Mode::kAuto || batch.content == 0) return;
  learn_rate(batch);
  const auto work = batch.took - batch.packing - batch.waiting - batch.sampling;
  average(work_per_byte_, std::max(0.0, seconds(work)) / static_cast<double>(batch.content),
          kWeight);
  learn_levels(batch, plan);
  choose();
}

void CompressionPolicy::choose() {
  // Long enough to see what the way just taken is really worth.
  if (batches_ - chosen_at_ < kStay) return;
  double best = cost_as_is();
  std::optional<std::size_t> way;
  if (chosen_) {
    const double now = cost_packed(*chosen_);
    // What is in use has the advantage of the doubt.
    if (now * kGain < best) {
      best = now;
      way = chosen_;
    }
  }
  for (std::size_t level = 0; level < kLevels.size(); ++level) {
    if (!levels_[level].known || (way && *way == level)) continue;
    const double cost = cost_packed(level);
    if (cost < best * kGain) {
      best = cost;
      way = level;
    }
  }
  if (way == chosen_) return;
  if (chosen_.has_value() != way.has_value()) {
    chosen_at_ = batches_;
    rate_packed_.reset();  // Of another time.
  }
  chosen_ = way;
}

}  // namespace migrate
