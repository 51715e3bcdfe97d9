#include "precopy/convergence.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace migrate::precopy {
namespace {

using Kind = StallStep::Kind;

double to_ms(std::chrono::microseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

constexpr std::string_view kPostcopyStep =
    "postcopy: the guest goes first, and what is left of its memory follows";

/// Whether another round is worth its time to hybrid: each page that it leaves is one that the
/// guest may have to wait for.
bool halved(const RoundSample& sample) { return 2 * sample.dirty_after_pages <= sample.set_pages; }

}  // namespace

ConvergenceLimits limits_of(const OutgoingOptions& options, std::uint32_t vcpus,
                            std::uint64_t memory_pages) {
  ConvergenceLimits limits;
  limits.policy =
      options.custom_policy != nullptr ? options.custom_policy : make_policy(options.policy);
  limits.on_stall = effective_ladder(options);
  limits.max_downtime_ms = to_ms(options.max_downtime);
  limits.hard_ms = options.downtime_hard ? to_ms(*options.downtime_hard) : 0;
  limits.max_rounds = options.max_rounds;
  limits.bandwidth_bytes_per_s = options.bandwidth_bytes_per_s;
  limits.throttle_max = options.throttle_max;
  limits.hybrid = options.strategy == Strategy::kHybrid;
  limits.vcpus = vcpus;
  limits.memory_pages = memory_pages;
  return limits;
}

Convergence::Convergence(ConvergenceLimits limits)
    : limits_(std::move(limits)), throttle_(limits_.vcpus, limits_.throttle_max) {
  can_postcopy_ = limits_.can_postcopy;
  max_downtime_ms_ = limits_.max_downtime_ms;
  if (limits_.hard_ms > 0) max_downtime_ms_ = std::min(max_downtime_ms_, limits_.hard_ms);
  rate_ = first_rate();
}

std::uint64_t Convergence::first_rate() const {
  return limits_.policy->first_rate(limits_.bandwidth_bytes_per_s);
}

void Convergence::begin_round(std::uint64_t set_pages) { throttle_.begin_round(set_pages); }

void Convergence::note(const DirtySample& sample) { throttle_.note(sample); }

Estimate Convergence::downtime_with(std::uint64_t pages, const Costs& costs) const {
  return precopy::downtime_with(static_cast<double>(pages), throttle_, costs.switchover_ms_per_page,
                                costs.fixed);
}

bool Convergence::will_throttle() const {
  if (throttle_.engaged()) return true;
  if (!can_throttle_) return false;
  return std::any_of(limits_.on_stall.begin() + static_cast<std::ptrdiff_t>(ladder_),
                     limits_.on_stall.end(),
                     [](const StallStep& step) { return step.kind == Kind::kThrottle; });
}

Outlook Convergence::outlook(std::uint64_t set_pages, const Costs& costs) const {
  const std::uint32_t done = rounds_of_step_;
  return look_ahead({.writers = throttle_,
                     .set_pages = set_pages,
                     .ms_per_page = costs.ms_per_page,
                     .switchover_ms_per_page = costs.switchover_ms_per_page,
                     .fixed = costs.fixed,
                     .max_downtime_ms = max_downtime_ms_,
                     .rounds_left = limits_.max_rounds - std::min(limits_.max_rounds, done),
                     .may_throttle = will_throttle()});
}

Verdict Convergence::after_round(RoundSample sample, const DirtySample& dirty, const Costs& costs) {
  throttle_.end_round(dirty);
  sample.run_share = throttle_.mean_run_share_of_round();
  // Of a guest that is held back it says nothing.
  if (throttle_.knows() && !throttle_.engaged()) {
    const double floor =
        throttle_.floor_pages(static_cast<double>(sample.dirty_after_pages), costs.ms_per_page);
    sample.floor_pages = static_cast<std::uint64_t>(std::llround(floor));
  }
  rounds_.push_back(sample);
  ++rounds_done_;
  ++rounds_of_step_;
  bytes_sent_ += sample.bytes_sent;
  PolicyInput input;
  input.rounds = rounds_;
  input.rounds_done = rounds_done_;
  input.memory_pages = limits_.memory_pages;
  input.bytes_sent = bytes_sent_;
  input.ms_per_page = costs.ms_per_page;
  input.switchover_ms_per_page = costs.switchover_ms_per_page.p50;
  input.fixed_ms = forecast::sum_of(costs.fixed).p50;
  input.downtime_ms = downtime_with(sample.dirty_after_pages, costs);
  input.max_downtime_ms = max_downtime_ms_;
  // In a window that begins later, fewer are left.
  const auto before = rounds_of_step_ - static_cast<std::uint32_t>(rounds_.size());
  input.max_rounds = limits_.max_rounds - std::min(limits_.max_rounds, before);
  input.capacity_bytes_per_s = costs.capacity_bytes_per_s;
  input.bandwidth_bytes_per_s = limits_.bandwidth_bytes_per_s;
  input.rate_bytes_per_s = rate_;
  PolicyDecision decision = limits_.policy->decide(input);
  Verdict verdict;
  verdict.downtime_ms = input.downtime_ms;
  verdict.reason = std::move(decision.reason);
  rate_ = decision.rate_bytes_per_s;
  // Whatever a policy makes of a limit: beyond the hard one the guest would stand in vain.
  const bool in_vain = limits_.hard_ms > 0 && verdict.downtime_ms.p50 > limits_.hard_ms;
  if (decision.action == PolicyDecision::Action::kSwitchover && !in_vain) {
    verdict.action = Verdict::Action::kSwitchover;
  } else if (limits_.hybrid && can_postcopy_ &&
             (decision.action != PolicyDecision::Action::kNextRound || !halved(sample))) {
    verdict.action = Verdict::Action::kPostcopy;
    verdict.steps.push_back(std::string(kPostcopyStep));
  } else if (decision.action != PolicyDecision::Action::kNextRound) {
    climb(verdict);
  }
  verdict.rate_bytes_per_s = rate_;
  return verdict;
}

/// Takes the next step of the ladder that does anything.
void Convergence::climb(Verdict& verdict) {
  // Its effect is seen from the next round on; what is left now is what that begins with.
  rounds_.erase(rounds_.begin(), rounds_.end() - 1);
  if (throttle_.engaged() && throttle_.press()) {
    verdict.steps.push_back("throttle: more is withheld");
    return;
  }
  while (ladder_ < limits_.on_stall.size()) {
    if (!take(limits_.on_stall[ladder_++], verdict)) continue;
    rounds_of_step_ = 1;
    return;
  }
  verdict.action = Verdict::Action::kAbort;
}

bool Convergence::take(const StallStep& step, Verdict& verdict) {
  switch (step.kind) {
    case Kind::kThrottle:
      if (!can_throttle_) return false;
      throttle_.engage();
      verdict.steps.push_back("throttle: run time is withheld from the vCPUs that write most");
      return true;
    case Kind::kPostcopy:
      if (!can_postcopy_) return false;
      verdict.action = Verdict::Action::kPostcopy;
      verdict.steps.push_back(std::string(kPostcopyStep));
      return true;
    case Kind::kRaise: {
      const double limit =
          limits_.hard_ms > 0 ? std::min(to_ms(step.limit), limits_.hard_ms) : to_ms(step.limit);
      if (limit <= max_downtime_ms_) return false;
      max_downtime_ms_ = limit;
      verdict.steps.push_back(
          "raise: a downtime of " +
          format_duration(std::chrono::microseconds(std::llround(1000 * limit))) + " is accepted");
      // What has just been found may keep it.
      if (verdict.downtime_ms.p50 <= limit) verdict.action = Verdict::Action::kSwitchover;
      return true;
    }
    case Kind::kAbort:
      verdict.action = Verdict::Action::kAbort;
      return true;
  }
  return false;
}

void Convergence::attempt_failed() {
  rounds_.clear();
  rounds_of_step_ = 0;
}

void Convergence::throttle_is_unsupported() {
  can_throttle_ = false;
  throttle_.release();
}

}  // namespace migrate::precopy
