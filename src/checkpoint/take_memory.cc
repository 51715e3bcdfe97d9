// Take, from the guest's pause until all of it is written.
#include <algorithm>

#include "checkpoint/state_collector.hpp"
#include "checkpoint/take.hpp"

namespace migrate::checkpoint {

Status Take::stand() {
  phase_ = Phase::kQuiesce;
  MIGRATE_ASSIGN(const PauseResult paused, guest_.pause());
  stands_ = paused.before == RunState::kRunning;
  stopped_at_ = paused.stopped_at;
  note(report_.phases_ms.quiesce);
  if (paused.before != description_.run_state) {
    return make_error(ErrorCode::kBusy, "the guest was paused or resumed by somebody else")
        .advise("take the checkpoint again");
  }
  phase_ = Phase::kStateSave;
  MIGRATE_TRY(save_state());
  note(report_.phases_ms.state_save);
  phase_ = Phase::kFinalSync;
  MIGRATE_ASSIGN(const std::vector<Region> regions, guest_.pages().regions());
  if (regions != description_.guest.regions) {
    return make_error(ErrorCode::kBusy, "the guest's memory was laid out anew meanwhile")
        .advise("take the checkpoint again");
  }
  // Before it is read, and before the guest runs on: then all that it writes is in the log.
  if (use_log_) MIGRATE_TRY(log_.take());
  if (live_ != nullptr) {
    MIGRATE_TRY(live_->freeze(by_log_ ? log_.latest() : PageBitmap()));
  } else {
    if (by_log_) {
      pages_.merge(log_.written());
    } else {
      pages_.set_all();
    }
    for (const Region& region : regions) MIGRATE_TRY(guest_.pages().holes(region.id, holes_));
    pages_.subtract(holes_);
  }
  note(report_.phases_ms.arm);
  return {};
}

Status Take::save_state() {
  StateCollector collector;
  MIGRATE_TRY(guest_.save_state(collector));
  MIGRATE_ASSIGN(state_, collector.take());
  return {};
}

Status Take::run_on() {
  if (stands_ && !options_.leave_paused) {
    phase_ = Phase::kStart;
    MIGRATE_TRY(guest_.resume());
    stands_ = false;
    report_.pause_ms = ms_since(stopped_at_);
    note(report_.phases_ms.resume);
    phase_ = Phase::kFinalPages;
  }
  say("checkpoint-instant", report_.pause_ms
                                ? "the guest stood for " + std::to_string(*report_.pause_ms) + " ms"
                                : "the guest stands");
  return stop_.check();
}

Status Take::start_lanes() {
  phase_ = Phase::kFinalPages;
  if (live_ != nullptr) {
    // What was written before the instant is no hole any more.
    if (base_ != nullptr) holes_.subtract(live_->pages());
  } else {
    standing_ = std::make_unique<StandingMemory>(guest_.pages(), pages_);
  }
  const auto save = [this](ImageWriter::Lane& lane, std::size_t number) -> Status {
    const auto add = [&](std::uint16_t region, std::uint64_t page,
                         const std::byte* content) -> Status {
      if (ended_.load(std::memory_order_relaxed)) {
        return make_error(ErrorCode::kCancelled, "the checkpoint has ended");
      }
      return lane.add(region, page, content);
    };
    MIGRATE_TRY(live_ != nullptr ? live_->save(add) : standing_->save(add));
    return number == 0 ? add_holes(lane) : Status();
  };
  MIGRATE_TRY(lanes_->start({save, [this](const Error& error) { end_lanes(error); }}));
  return writer_->state(state_);
}

// In a base a hole may have been a page.
Status Take::add_holes(ImageWriter::Lane& lane) const {
  if (base_ == nullptr) return {};
  for (std::size_t i = 0; i < holes_.segments().size(); ++i) {
    const auto& segment = holes_.segments()[i];
    const PageRange all = segment.region.range;
    for (PageRange run = next_run(segment, all.first, all.end()); !run.empty();
         run = next_run(segment, run.end(), all.end())) {
      for (std::uint64_t page = run.first - all.first; page < run.end() - all.first; ++page) {
        MIGRATE_TRY(lane.add_zero(static_cast<std::uint16_t>(i), page));
      }
    }
  }
  return {};
}

void Take::end_lanes(const Error& error) {
  ended_.store(true);
  writer_->interrupt();
  if (live_ != nullptr) live_->fail(error);
}

std::uint64_t Take::saved() const {
  if (live_ != nullptr) return live_->saved();
  return standing_ != nullptr ? standing_->saved() : 0;
}

Status Take::wait_saved() {
  const std::uint64_t pages = live_ != nullptr ? live_->pages().count() : pages_.count();
  constexpr std::chrono::milliseconds kLook(100);
  while (!lanes_->wait_saved(std::chrono::steady_clock::now() + kLook)) progress(saved(), pages);
  MIGRATE_TRY(lanes_->failure());
  // All of it is copied: the guest's writes need nobody any more.
  if (live_ != nullptr) live_->close();
  return stop_.check();
}

Status Take::wait_written() {
  MIGRATE_TRY(lanes_->finish());
  note(report_.phases_ms.memory);
  return stop_.check();
}

}  // namespace migrate::checkpoint
