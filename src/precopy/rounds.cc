#include "precopy/rounds.hpp"

#include <algorithm>

#include "precopy/round_rules.hpp"
#include "precopy/void_pages.hpp"

namespace migrate::precopy {
namespace {

/// What the guest's own code says is never about the link, whatever its code.
Status of_guest(Status status) {
  if (status) return status;
  return std::move(status).error().on(Side::kSource);
}

}  // namespace

Rounds::Rounds(Context context) : context_(std::move(context)) {
  std::vector<Region> regions;
  for (const auto& entry : context_.ledger.entries()) regions.push_back(entry->region);
  follow_regions(regions);
}

void Rounds::follow_regions(const std::vector<Region>& regions) {
  heat_.reshape(regions);
  set_.reshape(regions, true);  // All of a new region is dirty.
  open_set_.reshape(regions, false);
  collected_.reshape(regions, false);
  again_.reshape(regions, false);
  holes_.reshape(regions, false);
}

Status Rounds::start(bool stands) {
  if (tracking_) return {};
  stable_ = stands;
  MIGRATE_TRY(of_guest(context_.tracker.start()));
  tracking_ = true;
  MIGRATE_TRY(collect());
  set_.set_all();
  return find_holes();
}

Status Rounds::start_paused() {
  set_.set_all();
  for (const auto& segment : holes_.segments()) {
    MIGRATE_TRY(of_guest(context_.pages.holes(segment.region.id, holes_)));
  }
  set_.subtract(holes_);
  return {};
}

// A page is a hole for good only if it still is one after its log bit was re-armed: a write in
// between would be in neither the log nor the set.
Status Rounds::find_holes() {
  PageBitmap before(set_.regions());
  for (const auto& segment : before.segments()) {
    MIGRATE_TRY(of_guest(context_.pages.holes(segment.region.id, before)));
  }
  if (!context_.tracker.rearms_in_collect()) {
    PageBitmap armed = before;
    armed.intersect(collected_);
    for (const auto& segment : armed.segments()) {
      MIGRATE_TRY(of_guest(context_.tracker.rearm(armed, segment.region.id, segment.region.range)));
    }
    collected_.subtract(armed);
  }
  for (const auto& segment : holes_.segments()) {
    MIGRATE_TRY(of_guest(context_.pages.holes(segment.region.id, holes_)));
  }
  holes_.intersect(before);
  set_.subtract(holes_);
  return {};
}

Status Rounds::collect() {
  const auto begin = context_.clock.now();
  collected_.clear_all();
  MIGRATE_TRY(of_guest(context_.tracker.collect(collected_)));
  last_collect_ = context_.clock.now() - begin;
  set_.merge(collected_);
  holes_.subtract(collected_);
  return {};
}

Result<RoundOutcome> Rounds::run_settled() {
  MIGRATE_TRY(collect());
  return run();
}

Result<RoundOutcome> Rounds::run() {
  open_ = {};
  open_.round = round_;
  open_.set_pages = set_.count();
  open_since_ = peeked_at_ = context_.clock.now();
  written_before_ = context_.tracker.written_by_vcpu();
  MIGRATE_TRY(send_round());
  MIGRATE_TRY(await_ack());
  return close_round();
}

Status Rounds::send_round() {
  dispatched_ = redirtied_ = 0;
  barrier_sent_ = false;
  again_.clear_all();
  const bool rearm = tracking_ && !context_.tracker.rearms_in_collect();
  PageBitmap hot = heat_.hot_part(set_);
  PageBitmap cold = set_;
  cold.subtract(hot);
  open_set_ = set_;
  context_.senders->begin_round(open_set_);
  set_.clear_all();
  MIGRATE_TRY(send_part(cold, rearm));
  MIGRATE_TRY(send_part(hot, rearm));
  MIGRATE_TRY(flush_batch());
  bool regions_changed = false;
  MIGRATE_TRY(sync_regions(regions_changed));
  MIGRATE_ASSIGN(open_.bulk, context_.senders->finish_round(round_, false));
  return send_barrier(open_.bulk, false, false);
}

Result<RoundOutcome> Rounds::close_round() {
  open_.took = context_.clock.now() - open_since_;
  open_.looked_at = dispatched_;
  open_.redirtied = redirtied_;
  const double seconds = std::chrono::duration<double>(open_.took).count();
  if (dispatched_ >= kWindowPages) {
    bytes_per_s_ = static_cast<double>(dispatched_ * kPageSize) / seconds;
  }
  open_set_.clear_all();
  MIGRATE_TRY(apply_regions(std::exchange(pending_regions_, {})));
  ++round_;
  acknowledged_digest_ = digest_;
  if (tracking_) {
    MIGRATE_TRY(collect());
    heat_.note(set_);
    note_writers();
  }
  open_.collect = last_collect_;
  open_.dirty_after = set_.count();
  return open_;
}

void Rounds::use(BulkSenders& senders, RecordChannel& control) {
  context_.senders = &senders;
  context_.control = &control;
}

Result<std::optional<RoundOutcome>> Rounds::reconcile(std::uint32_t round, std::uint64_t digest) {
  const bool acknowledgement_lost = barrier_sent_ && round == round_ + 1;
  if (round != round_ && !acknowledgement_lost) {
    return make_error(ErrorCode::kProtocol, "the target is in round " + std::to_string(round) +
                                                " after the link was lost in round " +
                                                std::to_string(round_));
  }
  const std::uint64_t expected =
      acknowledgement_lost ? digest_to_acknowledge() : acknowledged_digest_;
  if (digest != expected) {
    return make_error(ErrorCode::kIntegrity,
                      "after the link was lost the target's memory has another digest than what it "
                      "acknowledged")
        .advise("send again; if it happens twice, please report it");
  }
  batch_.count = 0;
  if (!acknowledgement_lost) {
    MIGRATE_TRY(rewind());
    return std::optional<RoundOutcome>();
  }
  barrier_sent_ = false;
  MIGRATE_ASSIGN(auto closed, close_round());
  return std::optional(closed);
}

Status Rounds::rewind() {
  barrier_sent_ = false;
  pending_regions_ = {};
  make_void(context_.ledger, open_set_);
  digest_ = digest_of(context_.ledger, context_.digest);
  set_.merge(open_set_);
  holes_.subtract(open_set_);
  // Not all that was collected for the round may have been re-armed: those pages come again here,
  // and only they may be re-armed for what is sent next.
  return tracking_ ? collect() : Status{};
}

Status Rounds::send_part(const PageBitmap& part, bool rearm) {
  PageBitmap to_rearm;
  if (rearm) {
    to_rearm = part;
    to_rearm.intersect(collected_);
  }
  std::deque<Window> ahead;
  const std::size_t ahead_max = rearm ? windows_ahead(bytes_per_s_) : 0;
  const std::uint64_t step = window_pages(bytes_per_s_);
  for (std::size_t i = 0; i < part.segments().size(); ++i) {
    const auto& segment = part.segments()[i];
    const GuestPage end = segment.region.range.end();
    for (GuestPage first = segment.region.range.first; first < end;) {
      const PageRange range{first, std::min(step, end - first)};
      first = range.end();
      if (next_run(segment, range.first, range.end()).empty()) continue;
      // What the latest collect did not give is armed already; a region that is gone gives nothing.
      if (rearm && !next_run(to_rearm.segments()[i], range.first, range.end()).empty()) {
        MIGRATE_TRY(of_guest(context_.tracker.rearm(to_rearm, segment.region.id, range)));
      }
      ahead.push_back({i, range});
      if (ahead.size() <= ahead_max) continue;
      MIGRATE_TRY(look_again());
      MIGRATE_TRY(dispatch(part, ahead.front(), tracking_));
      ahead.pop_front();
    }
  }
  for (const Window& window : ahead) {
    MIGRATE_TRY(look_again());
    MIGRATE_TRY(dispatch(part, window, tracking_));
  }
  return {};
}

Status Rounds::look_again() {
  MIGRATE_TRY(context_.on_progress(dispatched_));
  if (!tracking_ || stable_) return {};
  const auto now = context_.clock.now();
  if (now - peeked_at_ < kLookAhead) return {};
  MIGRATE_TRY(of_guest(context_.tracker.peek(again_)));
  peeked_at_ = context_.clock.now();
  if (!context_.on_sample) return {};
  note_writers();
  return context_.on_sample(sample(again_.count()));
}

/// How many pages each vCPU has newly written in this round, where the tracker can tell.
void Rounds::note_writers() {
  written_ = context_.tracker.written_by_vcpu();
  if (written_.size() != written_before_.size()) return written_.clear();
  for (std::size_t i = 0; i < written_.size(); ++i) written_[i] -= written_before_[i];
}

DirtySample Rounds::sample(std::uint64_t dirtied) const {
  DirtySample sample;
  sample.ms = std::chrono::duration<double, std::milli>(context_.clock.now() - open_since_).count();
  sample.dirtied = dirtied;
  sample.by_vcpu = written_;
  const std::uint64_t done = dispatched_ + redirtied_;
  sample.left_pages = open_.set_pages > done ? open_.set_pages - done : 0;
  return sample;
}

DirtySample Rounds::last_sample() const {
  DirtySample last = sample(open_.dirty_after);
  last.ms = std::chrono::duration<double, std::milli>(open_.took).count();
  last.left_pages = 0;
  return last;
}

Status Rounds::dispatch(const PageBitmap& part, const Window& window, bool skip_again) {
  const auto& segment = part.segments()[window.segment];
  const auto* again = skip_again ? again_.find(segment.region.id) : nullptr;
  PageLedger::Entry* entry = context_.ledger.find(segment.region.id);
  MIGRATE_CHECK(entry != nullptr);
  const GuestPage first = segment.region.range.first;
  for (PageRange run = next_run(segment, window.range.first, window.range.end()); !run.empty();
       run = next_run(segment, run.end(), window.range.end())) {
    for (std::uint64_t page = run.first - first; page < run.end() - first; ++page) {
      if (again != nullptr && ((again->words[page / 64] >> (page % 64)) & 1) != 0) {
        ++redirtied_;
        continue;
      }
      MIGRATE_TRY(add_to_batch(entry, page));
    }
  }
  return {};
}

Status Rounds::add_to_batch(PageLedger::Entry* entry, std::uint64_t page) {
  if (batch_.count > 0 && (batch_.entry != entry || batch_.count == PageBatch::kPagesMax ||
                           page < batch_.pages[batch_.count - 1])) {
    MIGRATE_TRY(flush_batch());
  }
  batch_.entry = entry;
  batch_.pages[batch_.count++] = page;
  return {};
}

Status Rounds::flush_batch() {
  if (batch_.count == 0) return {};
  batch_.round = round_;
  batch_.stable = stable_ && !deadline_;
  dispatched_ += batch_.count;
  Status sent = context_.senders->submit(batch_);
  batch_.count = 0;
  return sent;
}

Status Rounds::sync_regions(bool& changed) {
  auto regions = context_.pages.regions();
  if (!regions) return std::move(regions).error().on(Side::kSource);
  const std::vector<Region>& now = *regions;
  pending_regions_ = {};
  pending_regions_.first_handle = wire::RegionHandle{context_.ledger.next_handle()};
  for (const auto& entry : context_.ledger.entries()) {
    if (std::find(now.begin(), now.end(), entry->region) == now.end()) {
      pending_regions_.removed.push_back(wire::RegionHandle{entry->handle});
    }
  }
  for (const Region& region : now) {
    const PageLedger::Entry* known = context_.ledger.find(region.id);
    if (known == nullptr || !(known->region == region)) pending_regions_.added.push_back(region);
  }
  changed = !pending_regions_.added.empty() || !pending_regions_.removed.empty();
  return changed ? context_.control->send(pending_regions_, context_.idle_max) : Status{};
}

Status Rounds::apply_regions(const wire::Regions& change) {
  if (change.added.empty() && change.removed.empty()) return {};
  for (const wire::RegionHandle handle : change.removed) {
    const PageLedger::Entry* entry = context_.ledger.find(handle.number);
    for (std::uint64_t page = 0; page < entry->hashes.size(); ++page) {
      digest_ -= context_.digest.mix(handle, page, entry->hashes[page]);
    }
    MIGRATE_TRY(context_.ledger.remove(handle.number));
  }
  std::uint32_t handle = change.first_handle.number;
  for (const Region& region : change.added) MIGRATE_TRY(context_.ledger.add(handle++, region));
  std::vector<Region> regions;
  for (const auto& entry : context_.ledger.entries()) regions.push_back(entry->region);
  follow_regions(regions);
  // One that only looks like its predecessor (same pages, another backing) begins as zeros too.
  for (const Region& region : change.added) {
    set_.set(region.id, region.range);
    holes_.clear(region.id, region.range);
  }
  return {};
}

Status Rounds::send_barrier(const BulkTotals& totals, bool final, bool later) {
  digest_ += totals.digest_change;
  barrier_sent_ = true;
  const wire::Barrier barrier{round_, final, totals.carried, totals.digest_change};
  return later ? context_.control->send_later(barrier, context_.idle_max)
               : context_.control->send(barrier, context_.idle_max);
}

Status Rounds::await_ack() {
  auto record = deadline_ ? context_.control->receive_whole(*deadline_)
                          : context_.control->receive_alive(context_.idle_max);
  if (!record) return std::move(record).error();
  if (record->header.type != wire::RecordType::kBarrierAck) {
    return RecordChannel::unexpected(*record, wire::RecordType::kBarrierAck);
  }
  MIGRATE_ASSIGN(const auto ack, wire::decode<wire::BarrierAck>(record->body));
  if (ack.round != round_) {
    return make_error(ErrorCode::kProtocol, "the target acknowledged round " +
                                                std::to_string(ack.round) + " in round " +
                                                std::to_string(round_));
  }
  if (ack.digest != digest_to_acknowledge()) {
    return make_error(ErrorCode::kIntegrity,
                      "after round " + std::to_string(round_) +
                          " the target's memory has another digest than what was sent")
        .advise("send again; if it happens twice, please report it");
  }
  return {};
}

// REGIONS take effect at the barrier: the target's digest is without the removed ones.
std::uint64_t Rounds::digest_to_acknowledge() {
  std::uint64_t expected = digest_;
  for (const wire::RegionHandle handle : pending_regions_.removed) {
    const PageLedger::Entry* entry = context_.ledger.find(handle.number);
    for (std::uint64_t page = 0; page < entry->hashes.size(); ++page) {
      expected -= context_.digest.mix(handle, page, entry->hashes[page]);
    }
  }
  return expected;
}

}  // namespace migrate::precopy
