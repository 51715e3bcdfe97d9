#include "precopy/simulation.hpp"

#include <algorithm>
#include <utility>

#include "forecast/fixed_costs.hpp"
#include "forecast/page_cost.hpp"
#include "precopy/convergence.hpp"
#include "precopy/simulated_rounds.hpp"

namespace migrate::precopy {
namespace {

// What one page takes whatever the link: a running guest's, copied, hashed and sent by two lanes on
// two processors, makes some 2 GB/s (docs/benchmarks.md).
constexpr double kPageMsMin = 0.002;
constexpr std::uint32_t kLanes = 2;
// HELLO, WELCOME, JOIN, JOINED, and what the connections themselves take.
constexpr double kSetupRoundTrips = 4;
// Until a vCPU runs, once COMMIT is there: threads are woken.
constexpr double kStartMs = 0.2;
// What a fixed part takes at the p95, of what it took once: other work of the host comes in
// between.
constexpr double kFixedSpread = 2;
// A policy that never ends is ended: no real migration is let run for longer.
constexpr std::size_t kRoundsMax = 1000;
constexpr double kTotalMsMax = 4 * 3600 * 1000.0;

double to_ms(std::chrono::microseconds time) { return static_cast<double>(time.count()) / 1000; }
Estimate spread(double ms) { return {ms, ms * kFixedSpread}; }

forecast::FixedCosts fixed_costs(const DirtyTrace& trace, const SimulationInput& input) {
  const double state_ms =
      1000 * static_cast<double>(trace.costs.state_bytes) / input.bandwidth_bytes_per_s;
  const double save_ms = to_ms(trace.costs.state_save);
  return {.pause = spread(to_ms(trace.costs.pause)),
          .final_sync = spread(to_ms(trace.costs.collect)),
          .state_save = spread(save_ms + state_ms),
          // The same calls the other way round.
          .state_load = spread(save_ms),
          .start = spread(kStartMs),
          .round_trip = spread(input.round_trip_ms)};
}

SimulatedLink link_of(const DirtyTrace& trace, const SimulationInput& input) {
  return {.bytes_per_s = input.bandwidth_bytes_per_s,
          .round_trip_ms = input.round_trip_ms,
          .page_bytes = trace.page_wire_bytes * input.content_ratio,
          .page_ms_min = kPageMsMin,
          .lanes = kLanes};
}

class Migration {
 public:
  Migration(const DirtyTrace& trace, const SimulationInput& input)
      : trace_(trace),
        input_(input),
        fixed_(fixed_costs(trace, input)),
        rounds_(trace, input.offset, link_of(trace, input)),
        cost_({static_cast<std::uint64_t>(input.bandwidth_bytes_per_s), 0}, true),
        convergence_(limits()) {}

  Simulation run() {
    result_.total_ms = kSetupRoundTrips * input_.round_trip_ms;
    if (input_.options.strategy == Strategy::kStopCopy || trace_.paused) {
      result_.reason = "the guest stands while all of it is sent";
      result_.done = true;
    } else {
      precopy();
    }
    result_.max_downtime_ms = convergence_.max_downtime_ms();
    if (result_.done) switch_over();
    return std::move(result_);
  }

 private:
  [[nodiscard]] ConvergenceLimits limits() const {
    ConvergenceLimits limits = limits_of(input_.options, trace_.vcpus, trace_.pages());
    limits.bandwidth_bytes_per_s = static_cast<std::uint64_t>(input_.bandwidth_bytes_per_s);
    return limits;
  }
  [[nodiscard]] Costs costs() const {
    return {.ms_per_page = cost_.in_round(),
            .switchover_ms_per_page = cost_.in_switchover(),
            .fixed = fixed_,
            .capacity_bytes_per_s = cost_.capacity_bytes_per_s()};
  }

  void precopy() {
    set_rate(convergence_.first_rate());
    for (;;) {
      const Verdict verdict = round();
      result_.reason = verdict.reason;
      if (verdict.action == Verdict::Action::kAbort) return;
      if (verdict.action == Verdict::Action::kSwitchover) break;
      if (result_.rounds.size() == kRoundsMax || result_.total_ms > kTotalMsMax) {
        result_.reason = "rounds without end";
        return;
      }
      set_rate(verdict.rate_bytes_per_s);
      rounds_.set_withheld(convergence_.shares());
    }
    result_.done = true;
  }

  void set_rate(std::uint64_t bytes_per_s) {
    rounds_.set_rate(static_cast<double>(bytes_per_s));
    cost_.set_round_limit(bytes_per_s);
  }

  Verdict round() {
    convergence_.begin_round(rounds_.pages_left());
    double lost_to_ms = 0;
    const auto lose_until = [&](double ms) {
      result_.lost_ms += (ms - lost_to_ms) * convergence_.mean_share();
      lost_to_ms = ms;
    };
    const auto outcome = rounds_.run([&](const SimulatedRounds::Moment& moment) {
      lose_until(moment.ms);
      convergence_.note({moment.ms, moment.dirtied, moment.by_vcpu, moment.left_pages});
      rounds_.set_withheld(convergence_.shares());
    });
    lose_until(outcome.ms);
    note_costs(outcome);
    result_.total_ms += outcome.ms;
    result_.bytes += outcome.wire_bytes;
    result_.rounds.push_back({outcome.set_pages, outcome.sent, outcome.wire_bytes, outcome.ms,
                              outcome.dirty_after, convergence_.mean_share()});
    RoundSample sample;
    sample.set_pages = outcome.set_pages;
    sample.pages_sent = outcome.sent;
    sample.bytes_sent = static_cast<std::uint64_t>(outcome.wire_bytes);
    sample.ms = outcome.ms;
    sample.dirty_after_pages = outcome.dirty_after;
    return convergence_.after_round(
        sample, {outcome.ms, outcome.dirty_after, outcome.dirtied_by_vcpu, 0}, costs());
  }

  void note_costs(const SimulatedRounds::Outcome& outcome) {
    forecast::CarriedRound carried;
    carried.looked_at = carried.sent = outcome.sent;
    carried.wire_bytes = static_cast<std::uint64_t>(outcome.wire_bytes);
    carried.took_ms = outcome.ms;
    carried.busy_ms = carried.held_back_ms = outcome.ms * kLanes;
    carried.lanes = kLanes;
    cost_.note(carried);
  }

  void switch_over() {
    const auto last = rounds_.run_final();
    const Estimate fixed = forecast::sum_of(fixed_);
    result_.residue_pages = last.sent;
    result_.bytes += last.wire_bytes + static_cast<double>(trace_.costs.state_bytes);
    result_.downtime_ms = fixed.p50 + last.ms;
    result_.downtime_spread_ms = fixed.p95 - fixed.p50;
    result_.total_ms += result_.downtime_ms;
  }

  const DirtyTrace& trace_;
  const SimulationInput& input_;
  const forecast::FixedCosts fixed_;
  SimulatedRounds rounds_;
  forecast::PageCost cost_;
  Convergence convergence_;
  Simulation result_;
};

}  // namespace

Simulation simulate(const DirtyTrace& trace, const SimulationInput& input) {
  return Migration(trace, input).run();
}

}  // namespace migrate::precopy
