// What a switchover costs, before it counts: measured in this session, at both sides.
#include "session/outgoing_impl.hpp"

namespace migrate {
namespace {

using std::chrono::duration;

// What a pause takes where it was not measured: one kick of a vCPU is 0.2 ms on a loaded host, and
// device I/O has to drain.
constexpr Estimate kPauseMs{0.5, 2};
// Saving a vCPU's registers and MSRs is about 0.1 ms on a current processor; the same to load where
// the target declares nothing.
constexpr Estimate kStateMsPerVcpu{0.1, 0.4};
constexpr Estimate kStartMs{0.1, 0.6};
// What was measured once takes so much longer at worst: processors are shared, caches cold.
constexpr double kSpread = 2;

double to_ms(nanoseconds time) { return duration<double, std::milli>(time).count(); }

Estimate measured(double ms) { return {ms, kSpread * ms}; }

}  // namespace

/// While nothing has been sent yet. A guest that was paused stays so, and has no downtime.
Status Outgoing::Impl::rehearse() {
  if (rehearsal_ || guest_->run_state() == RunState::kPaused) return {};
  MIGRATE_ASSIGN(rehearsal_, forecast::rehearse(*guest_));
  if (rehearsal_->stood == nanoseconds(0)) return {};
  say("rehearsed",
      "pausing took " + std::to_string(to_ms(rehearsal_->pause)) + " ms and saving " +
          std::to_string(rehearsal_->state_bytes) + " bytes of state " +
          std::to_string(to_ms(rehearsal_->save)) + " ms; the guest stood for " +
          std::to_string(to_ms(rehearsal_->stood)) + " ms",
      Phase::kRounds);
  return {};
}

forecast::FixedCosts Outgoing::Impl::fixed_costs() const {
  const double vcpus = std::max(1u, description_.vcpus);
  const Estimate state = forecast::scaled(kStateMsPerVcpu, vcpus);
  Estimate save = rehearsal_ ? measured(to_ms(rehearsal_->save)) : state;
  if (rehearsal_ && page_cost_->capacity_bytes_per_s() > 0) {
    const Estimate sending = measured(1000 * static_cast<double>(rehearsal_->state_bytes) /
                                      static_cast<double>(page_cost_->capacity_bytes_per_s()));
    save = {save.p50 + sending.p50, save.p95 + sending.p95};
  }
  return {.pause = rehearsal_ ? measured(to_ms(rehearsal_->pause)) : kPauseMs,
          .final_sync = measured(to_ms(rounds_->last_collect())),
          .state_save = save,
          .state_load = declared_load_ms_ > 0 ? measured(declared_load_ms_) : state,
          .start = kStartMs,
          .round_trip = measured(round_trip_ms_)};
}

}  // namespace migrate
