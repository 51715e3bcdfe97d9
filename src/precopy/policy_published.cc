#include "precopy/policy_published.hpp"

#include "migrate/memory.hpp"

namespace migrate::precopy {
namespace {

using Action = PolicyDecision::Action;

constexpr std::uint64_t kMbit = 125'000;

struct XenRates {
  std::uint64_t least, most, step;
};

XenRates xen_rates(std::uint64_t bandwidth_bytes_per_s) {
  if (bandwidth_bytes_per_s == 0) return {100 * kMbit, 500 * kMbit, 50 * kMbit};
  return {bandwidth_bytes_per_s / 5, bandwidth_bytes_per_s, bandwidth_bytes_per_s / 10};
}

constexpr std::uint32_t kXenRounds = 29;
constexpr std::uint64_t kXenPages = 50;
constexpr std::uint64_t kXenMemories = 3;

// throttle-trigger-threshold, in percent, and how often in a row it is passed.
constexpr std::uint64_t kQemuTrigger = 50;
constexpr std::size_t kQemuTimes = 2;

}  // namespace

std::uint64_t XenPolicy::first_rate(std::uint64_t bandwidth_bytes_per_s) const {
  return xen_rates(bandwidth_bytes_per_s).least;
}

PolicyDecision XenPolicy::decide(const PolicyInput& input) const {
  const XenRates rates = xen_rates(input.bandwidth_bytes_per_s);
  const RoundSample& last = input.rounds.back();
  if (last.dirty_after_pages < kXenPages) {
    return {Action::kSwitchover, 0, "fewer than 50 pages are left"};
  }
  if (input.rounds_done >= kXenRounds) return {Action::kSwitchover, 0, "29 rounds are over"};
  if (input.bytes_sent > kXenMemories * input.memory_pages * kPageSize) {
    return {Action::kSwitchover, 0, "3 times the guest's memory was sent"};
  }
  const double dirtied = static_cast<double>(last.dirty_after_pages * kPageSize);
  const double dirty_rate = last.ms > 0 ? 1000 * dirtied / last.ms : 0;
  const double wanted = dirty_rate + static_cast<double>(rates.step);
  if (wanted > static_cast<double>(rates.most)) {
    // One round at full rate first: the rate that dirtied so much was a lower one.
    if (input.rate_bytes_per_s >= rates.most) {
      return {Action::kSwitchover, 0, "no progress at full rate"};
    }
    return {Action::kNextRound, rates.most, "at full rate"};
  }
  const auto rate = static_cast<std::uint64_t>(wanted);
  return {Action::kNextRound, rate < rates.least ? rates.least : rate,
          "a little faster than pages are dirtied"};
}

PolicyDecision QemuPolicy::decide(const PolicyInput& input) const {
  const RoundSample& last = input.rounds.back();
  const double bandwidth = last.ms > 0 ? static_cast<double>(last.bytes_sent) / last.ms : 0;
  const double remaining = static_cast<double>(last.dirty_after_pages * kPageSize);
  if (remaining <= bandwidth * input.max_downtime_ms) {
    return {Action::kSwitchover, 0, "what remains goes through in the limit"};
  }
  if (input.rounds.size() >= input.max_rounds) {
    return {Action::kStalled, 0, "the round limit is reached"};
  }
  bool stuck = input.rounds.size() >= kQemuTimes;
  if (stuck) {
    for (const RoundSample& round : input.rounds.last(kQemuTimes)) {
      stuck = stuck && round.dirty_after_pages * kPageSize * 100 > round.bytes_sent * kQemuTrigger;
    }
  }
  if (stuck) return {Action::kStalled, 0, "twice more than half of what was sent was dirtied"};
  return {Action::kNextRound, 0, "too much remains"};
}

PolicyDecision FixedPolicy::decide(const PolicyInput& input) const {
  if (input.rounds_done >= rounds_) return {Action::kSwitchover, 0, "that many rounds were asked"};
  return {Action::kNextRound, 0, "more rounds were asked for"};
}

}  // namespace migrate::precopy
