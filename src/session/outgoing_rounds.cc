#include <algorithm>

#include "session/outgoing_impl.hpp"

namespace migrate {
namespace {

using precopy::Decision;
using std::chrono::duration;
using std::chrono::milliseconds;

constexpr milliseconds kProgressInterval{100};
// What a pause takes before anything was measured: one kick of a vCPU is 0.2 ms on a loaded host,
// and device I/O has to drain.
constexpr double kPauseMs = 0.5;
// Saving a vCPU's registers and MSRs is about 0.1 ms on a current processor; the same to load where
// the target declares nothing.
constexpr double kStateMsPerVcpu = 0.1;
double to_ms(nanoseconds time) { return duration<double, std::milli>(time).count(); }

}  // namespace

Status Outgoing::Impl::precopy() {
  tracking_ = true;
  say("precopy", "tracking writes with " + std::string(guest_->tracker().name()));
  MIGRATE_TRY(rounds_->start(guest_->run_state() == RunState::kPaused));
  for (bool done = false; !done;) {
    const double start_ms = elapsed_ms();
    round_pages_ = rounds_->pages_left();
    MIGRATE_ASSIGN(const auto outcome, run_round());
    note_round(outcome, start_ms);
    decision_ = decide();
    MIGRATE_TRY(follow(decision_, done));
  }
  return {};
}

void Outgoing::Impl::note_round(const precopy::RoundOutcome& outcome, double start_ms) {
  without_link_ = backoff_ = nanoseconds(0);
  bulk_ += outcome.bulk;
  report_.pages.redirtied += outcome.redirtied;
  book_control();
  page_cost_->note(outcome, senders_->lanes());
  const double ms = to_ms(outcome.took);
  samples_.push_back({outcome.looked_at, outcome.bulk.wire_bytes, ms, outcome.dirty_after});
  RoundReport round;
  round.round = outcome.round;
  round.start_ms = start_ms;
  round.pages = outcome.looked_at;
  round.bytes = outcome.bulk.wire_bytes;
  round.ms = ms;
  round.dirty_after = outcome.dirty_after;
  round.dirty_rate =
      ms > 0 ? static_cast<double>(outcome.dirty_after * kPageSize) / (ms / 1000) : 0;
  round.throttle = throttle_;
  report_.rounds.push_back(round);
}

precopy::FixedCosts Outgoing::Impl::fixed_costs() const {
  const double state_ms = kStateMsPerVcpu * std::max(1u, description_.vcpus);
  return {.pause = kPauseMs,
          .final_sync = to_ms(rounds_->last_collect()),
          .state_save = state_ms,
          .state_load = declared_load_ms_ > 0 ? declared_load_ms_ : state_ms,
          .round_trip = round_trip_ms_};
}

Decision Outgoing::Impl::decide() const {
  precopy::ConvergenceInput input;
  input.rounds = std::span(samples_).subspan(samples_from_);
  input.rounds_done = static_cast<std::uint32_t>(samples_.size());
  input.ms_per_page = page_cost_->in_round();
  input.switchover_ms_per_page = page_cost_->in_switchover();
  input.fixed = fixed_costs();
  input.max_downtime_ms = duration<double, std::milli>(options_.max_downtime).count();
  input.max_rounds = options_.max_rounds;
  input.throttle = throttle_;
  input.can_throttle =
      ladder_ < options_.on_stall.size() && options_.on_stall[ladder_] == StallStep::kThrottle;
  input.out_of_steps =
      ladder_ >= options_.on_stall.size() || options_.on_stall[ladder_] == StallStep::kAbort;
  return precopy::decide(input);
}

Status Outgoing::Impl::follow(const Decision& decision, bool& done) {
  const RoundReport& last = report_.rounds.back();
  say("round-end",
      std::to_string(last.pages) + " pages, " + std::to_string(last.dirty_after) +
          " dirty after, downtime forecast " + std::to_string(decision.predicted_downtime_ms) +
          " ms: " + decision.reason,
      Phase::kRounds);
  report_.predicted.downtime_ms = decision.predicted_downtime_ms;
  report_.predicted.total_ms = elapsed_ms() + decision.predicted_downtime_ms;
  switch (decision.action) {
    case Decision::Action::kNextRound:
      return {};
    case Decision::Action::kSwitchover:
      done = true;
      return {};
    case Decision::Action::kThrottle:
      return throttle(decision.throttle);
    case Decision::Action::kAbort:
      break;
  }
  return make_error(ErrorCode::kNotConverging,
                    "the guest dirties memory faster than it can be sent: " + decision.reason +
                        ", and the downtime would be " +
                        std::to_string(decision.predicted_downtime_ms) + " ms")
      .at(Phase::kRounds)
      .on(Side::kSource)
      .advise(
          "raise --max-downtime, --bandwidth or --max-rounds, let --on-stall throttle the "
          "guest, or use --strategy stop-copy");
}

Status Outgoing::Impl::throttle(double share) {
  for (std::uint32_t vcpu = 0; vcpu < description_.vcpus; ++vcpu) {
    Status throttled = guest_->throttle(vcpu, share);
    if (!throttled && throttled.error().code == ErrorCode::kUnsupported) {
      say("stall", "this guest cannot be throttled: " + throttled.error().message, Phase::kRounds);
      ++ladder_;
      return {};
    }
    MIGRATE_TRY(std::move(throttled));
  }
  throttle_ = share;
  samples_from_ = samples_.size() - 1;
  if (throttle_ >= precopy::kThrottleMax) ++ladder_;
  say("stall",
      "throttle: withholding " + std::to_string(static_cast<int>(share * 100)) +
          " % of run time; " + decision_.reason,
      Phase::kRounds);
  return {};
}

void Outgoing::Impl::undo_throttle() {
  if (throttle_ == 0) return;
  throttle_ = 0;
  for (std::uint32_t vcpu = 0; vcpu < description_.vcpus; ++vcpu) {
    Status undone = guest_->throttle(vcpu, 0);
    if (!undone) say("throttle-failed", undone.error().to_text());
  }
}

Status Outgoing::Impl::on_progress(std::uint64_t pages_done) {
  if (gate_.load(std::memory_order_relaxed) == Gate::kCancelled) {
    return make_error(ErrorCode::kCancelled, "the migration was cancelled");
  }
  MIGRATE_TRY(keep_alive());
  book_control();
  const auto now = clock_.now();
  if (observer_ == nullptr || now - progress_at_ < kProgressInterval) return {};
  progress_at_ = now;
  Progress progress;
  progress.phase = phase_;
  progress.round = rounds_->round();
  progress.pages_left = round_pages_ > pages_done ? round_pages_ - pages_done : 0;
  progress.pages_total = ledger_->pages();
  progress.elapsed_ms = elapsed_ms();
  if (!report_.rounds.empty()) progress.dirty_bytes_per_s = report_.rounds.back().dirty_rate;
  progress.bytes_sent = bulk_.wire_bytes + senders_->wire_bytes_now();
  if (progress.elapsed_ms > 0) {
    progress.throughput_bytes_per_s =
        static_cast<double>(progress.bytes_sent) / (progress.elapsed_ms / 1000);
  }
  progress.predicted_downtime_ms = decision_.predicted_downtime_ms;
  progress.eta_ms = page_cost_->in_round() * static_cast<double>(progress.pages_left);
  observer_->on_progress(progress);
  return {};
}

}  // namespace migrate
