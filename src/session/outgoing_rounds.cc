#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "session/outgoing_impl.hpp"

namespace migrate {
namespace {

using precopy::Verdict;
using std::chrono::duration;
using std::chrono::milliseconds;

constexpr milliseconds kProgressInterval{100};

double to_ms(nanoseconds time) { return duration<double, std::milli>(time).count(); }

double mean_of(const std::vector<double>& shares) {
  if (shares.empty()) return 0;
  return std::accumulate(shares.begin(), shares.end(), 0.0) / static_cast<double>(shares.size());
}

}  // namespace

Status Outgoing::Impl::precopy() {
  if (!std::exchange(tracking_, true)) {
    say("precopy", "tracking writes with " + std::string(guest_->tracker().name()));
  }
  MIGRATE_TRY(rounds_->start(guest_->run_state() == RunState::kPaused));
  MIGRATE_TRY(rehearse());
  // After an attempt that was given up all that was learned stands, what is withheld too.
  if (!convergence_) {
    auto limits = precopy::limits_of(options_, description_.vcpus, ledger_->pages());
    // A guest that was paused has no downtime to bound.
    if (guest_->run_state() == RunState::kPaused) limits.hard_ms = 0;
    limits.can_postcopy = can_postcopy();
    convergence_.emplace(std::move(limits));
    use_round_rate(convergence_->first_rate());
  }
  for (bool done = false; !done;) {
    const double start_ms = elapsed_ms();
    round_pages_ = rounds_->pages_left();
    outlook_ = convergence_->outlook(round_pages_, costs());
    convergence_->begin_round(round_pages_);
    MIGRATE_TRY(apply_throttle());
    MIGRATE_ASSIGN(const auto outcome, run_round());
    note_round(outcome, start_ms);
    MIGRATE_TRY(follow(decide(outcome), done));
  }
  return {};
}

void Outgoing::Impl::note_round(const precopy::RoundOutcome& outcome, double start_ms) {
  without_link_ = backoff_ = nanoseconds(0);
  bulk_ += outcome.bulk;
  report_.pages.redirtied += outcome.redirtied;
  book_control();
  forecast::CarriedRound carried;
  carried.looked_at = outcome.looked_at;
  carried.sent = outcome.bulk.sent();
  carried.wire_bytes = outcome.bulk.wire_bytes;
  carried.took_ms = to_ms(outcome.took);
  carried.busy_ms = to_ms(outcome.bulk.busy);
  carried.sending_ms = to_ms(outcome.bulk.sending);
  carried.held_back_ms = to_ms(outcome.bulk.held_back);
  carried.lanes = senders_->lanes();
  page_cost_->note(carried);
  report_.capacity_mib_s = static_cast<double>(page_cost_->capacity_bytes_per_s()) / 1048576;
  RoundReport round;
  round.round = outcome.round;
  round.start_ms = start_ms;
  round.pages = outcome.looked_at;
  round.bytes = outcome.bulk.wire_bytes;
  round.ms = carried.took_ms;
  round.dirty_after = outcome.dirty_after;
  round.hot_after = rounds_->hot_pages();
  round.dirty_rate =
      round.ms > 0 ? static_cast<double>(outcome.dirty_after * kPageSize) / (round.ms / 1000) : 0;
  round.throttle = mean_of(throttle_);
  round.throttle_by_vcpu = throttle_;
  round.predicted_downtime_ms = outlook_.downtime_ms;
  round.predicted_total_ms = {start_ms + outlook_.total_ms.p50, start_ms + outlook_.total_ms.p95};
  report_.rounds.push_back(round);
}

precopy::Costs Outgoing::Impl::costs() const {
  return {.ms_per_page = page_cost_->in_round(),
          .switchover_ms_per_page = page_cost_->in_switchover(),
          .fixed = fixed_costs(),
          .capacity_bytes_per_s = page_cost_->capacity_bytes_per_s()};
}

Verdict Outgoing::Impl::decide(const precopy::RoundOutcome& outcome) {
  RoundSample sample;
  sample.set_pages = outcome.set_pages;
  sample.pages_sent = outcome.looked_at;
  sample.bytes_sent = outcome.bulk.wire_bytes;
  sample.ms = to_ms(outcome.took);
  sample.dirty_after_pages = outcome.dirty_after;
  return convergence_->after_round(sample, rounds_->last_sample(), costs());
}

Status Outgoing::Impl::follow(const Verdict& verdict, bool& done) {
  const RoundReport& last = report_.rounds.back();
  const Estimate& downtime = verdict.downtime_ms;
  say("round-end",
      std::to_string(last.pages) + " pages, " + std::to_string(last.dirty_after) +
          " dirty after, downtime forecast " + std::to_string(downtime.p50) + " ms, at most " +
          std::to_string(downtime.p95) + ": " + verdict.reason,
      Phase::kRounds);
  const double elapsed = elapsed_ms();
  report_.predicted.downtime_ms = downtime;
  report_.predicted.total_ms = {elapsed + downtime.p50, elapsed + downtime.p95};
  for (const std::string& step : verdict.steps) {
    say("stall", step + "; " + verdict.reason, Phase::kRounds);
  }
  switch (verdict.action) {
    case Verdict::Action::kNextRound:
      use_round_rate(verdict.rate_bytes_per_s);
      return {};
    case Verdict::Action::kSwitchover:
      done = true;
      return {};
    case Verdict::Action::kPostcopy:
      if (Status joined = join_urgent(); !joined) {
        if (options_.strategy == Strategy::kHybrid || gate_.load() == Gate::kCancelled) {
          return joined;
        }
        say("postcopy-unavailable", joined.error().message, Phase::kRounds);
        convergence_->postcopy_is_unsupported();
        use_round_rate(verdict.rate_bytes_per_s);
        return {};
      }
      lazy_ = true;
      // No page is sent while the guest stands.
      report_.predicted.downtime_ms = convergence_->downtime_with(0, costs());
      done = true;
      return {};
    case Verdict::Action::kAbort:
      break;
  }
  return make_error(ErrorCode::kNotConverging,
                    "the guest dirties memory faster than it can be sent: " + verdict.reason +
                        ", and the downtime would be " + std::to_string(downtime.p50) + " ms")
      .at(Phase::kRounds)
      .on(Side::kSource)
      .advise(
          "raise --max-downtime, --bandwidth or --max-rounds, let --on-stall throttle the "
          "guest or raise the limit, or use --strategy stop-copy");
}

Status Outgoing::Impl::on_sample(const precopy::DirtySample& sample) {
  convergence_->note(sample);
  return apply_throttle();
}

/// Tells the guest what has changed of the shares.
Status Outgoing::Impl::apply_throttle() {
  const std::vector<double>& wanted = convergence_->shares();
  if (throttle_.empty() && convergence_->mean_share() == 0) return {};
  throttle_.resize(wanted.size());
  for (std::uint32_t vcpu = 0; vcpu < wanted.size(); ++vcpu) {
    if (throttle_[vcpu] == wanted[vcpu]) continue;
    Status throttled = guest_->throttle(vcpu, wanted[vcpu]);
    if (!throttled && throttled.error().code == ErrorCode::kUnsupported) {
      say("stall", "this guest cannot be throttled: " + throttled.error().message, Phase::kRounds);
      convergence_->throttle_is_unsupported();
      undo_throttle();
      return {};
    }
    MIGRATE_TRY(std::move(throttled));
    throttle_[vcpu] = wanted[vcpu];
  }
  return {};
}

void Outgoing::Impl::undo_throttle() {
  for (std::uint32_t vcpu = 0; vcpu < throttle_.size(); ++vcpu) {
    if (throttle_[vcpu] == 0) continue;
    Status undone = guest_->throttle(vcpu, 0);
    if (!undone) say("throttle-failed", undone.error().to_text());
  }
  throttle_.clear();
}

Status Outgoing::Impl::on_progress(std::uint64_t pages_done) {
  if (gate_.load(std::memory_order_relaxed) == Gate::kCancelled) {
    return make_error(ErrorCode::kCancelled, "the migration was cancelled");
  }
  MIGRATE_TRY(keep_alive());
  book_control();
  const auto now = clock_.now();
  // While a hard limit runs, nothing of the program's is called.
  if (observer_ == nullptr || attempt_until_ || now - progress_at_ < kProgressInterval) return {};
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
  progress.predicted_downtime_ms = outlook_.downtime_ms.p50;
  // The round's own part by what is left of it, and what follows as it was expected.
  const double of_round = page_cost_->in_round() * static_cast<double>(round_pages_);
  const double left = page_cost_->in_round() * static_cast<double>(progress.pages_left);
  progress.eta_ms = left + std::max(0.0, outlook_.total_ms.p50 - of_round);
  observer_->on_progress(progress);
  return {};
}

}  // namespace migrate
