// The last round: of a guest that stands. It may turn out not to have been the last.
#include <utility>

#include "precopy/rounds.hpp"
#include "precopy/void_pages.hpp"

namespace migrate::precopy {

void Rounds::set_deadline(std::optional<std::chrono::steady_clock::time_point> deadline) {
  deadline_ = deadline;
  if (context_.senders != nullptr) context_.senders->set_deadline(deadline);
}

Status Rounds::begin_final() {
  stable_ = true;
  final_ = {};
  final_stage_ = FinalStage::kNone;
  if (tracking_) MIGRATE_TRY(collect());
  final_.collect = tracking_ ? last_collect_ : nanoseconds{0};
  bool changed = false;
  MIGRATE_TRY(sync_regions(changed));
  if (changed) {
    // New regions begin in the round after a barrier: one without pages makes room for them.
    final_stage_ = FinalStage::kRegions;
    MIGRATE_ASSIGN(final_.bulk, context_.senders->finish_round(round_, false));
    MIGRATE_TRY(send_barrier(final_.bulk, false, false));
    MIGRATE_TRY(await_ack());
    MIGRATE_TRY(apply_regions(std::exchange(pending_regions_, {})));
    ++round_;
  }
  final_stage_ = FinalStage::kOpen;
  final_.round = round_;
  final_.set_pages = set_.count();
  dispatched_ = redirtied_ = 0;
  again_.clear_all();
  context_.senders->begin_round(set_);
  return send_part(set_, false);
}

Result<RoundOutcome> Rounds::finish_final(bool await) {
  batch_.round = round_;
  batch_.stable = !deadline_;
  // What fills less than a batch leaves from this thread: waking a lane would take longer.
  if (dispatched_ == 0 && batch_.count > 0 && context_.senders->may_send_here(batch_)) {
    dispatched_ = batch_.count;
    Status sent = context_.senders->send_here(batch_);
    batch_.count = 0;
    MIGRATE_TRY(std::move(sent));
  }
  MIGRATE_TRY(flush_batch());
  MIGRATE_ASSIGN(const BulkTotals totals, context_.senders->finish_round(round_, true));
  final_stage_ = FinalStage::kBarrierSent;
  // OFFER follows it and takes it along, unless it is waited for.
  MIGRATE_TRY(send_barrier(totals, true, !await));
  final_.bulk += totals;
  if (await) MIGRATE_TRY(await_ack());
  final_.looked_at = dispatched_;
  // Kept as the open round's: nothing says yet that this one was the last.
  std::swap(open_set_, set_);
  set_.clear_all();
  ++round_;
  final_stage_ = FinalStage::kDone;
  return final_;
}

Result<RoundOutcome> Rounds::abandon_final() {
  set_deadline(std::nullopt);
  stable_ = false;
  batch_.count = 0;
  context_.senders->drop_queued();
  if (final_stage_ == FinalStage::kRegions) {
    MIGRATE_TRY(await_ack());
    MIGRATE_TRY(apply_regions(std::exchange(pending_regions_, {})));
    ++round_;
    final_stage_ = FinalStage::kOpen;
  }
  if (final_stage_ == FinalStage::kNone || final_stage_ == FinalStage::kOpen) {
    MIGRATE_ASSIGN(const BulkTotals totals, context_.senders->finish_round(round_, true));
    MIGRATE_TRY(send_barrier(totals, true, false));
    final_.bulk += totals;
    final_stage_ = FinalStage::kBarrierSent;
  }
  // What was sent is dirty again with the rest: some of it was read when the guest ran already.
  if (final_stage_ == FinalStage::kBarrierSent) ++round_;
  if (final_stage_ == FinalStage::kDone) {
    set_.merge(open_set_);
    open_set_.clear_all();
  }
  final_stage_ = FinalStage::kNone;
  return std::exchange(final_, {});
}

Status Rounds::go_on(const PageBitmap& forgotten) {
  if (!forgotten.empty()) {
    make_void(context_.ledger, forgotten);
    digest_ = digest_of(context_.ledger, context_.digest);
    set_.merge(forgotten);
    holes_.subtract(forgotten);
  }
  barrier_sent_ = false;
  acknowledged_digest_ = digest_;
  // What the last collect gave was not re-armed: it comes again, and only then may it be.
  return tracking_ ? collect() : Status{};
}

}  // namespace migrate::precopy
