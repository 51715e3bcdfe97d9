#include "checkpoint/take.hpp"

#include <new>
#include <utility>

#include "base/guarded.hpp"
#include "base/thread_cpu.hpp"

namespace migrate::checkpoint {
namespace {

double to_ms(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

/// Nothing had moved when it was found out, and trying again finds the same.
bool is_refusal(ErrorCode code) {
  return code == ErrorCode::kIncompatible || code == ErrorCode::kUnsupported ||
         code == ErrorCode::kInvalidArgument || code == ErrorCode::kBusy;
}

Error cancelled_error() {
  return make_error(ErrorCode::kCancelled, "the checkpoint was cancelled");
}

}  // namespace

bool TakeStop::cancel() noexcept {
  const MutexLock lock(mutex_);
  if (closed_) return false;
  cancelled_.store(true);
  try {
    if (call_) call_();
  } catch (const std::bad_alloc&) {
    // Whoever works looks at the flag, too.
  }
  return true;
}

void TakeStop::on_cancel(std::function<void()> call) {
  const MutexLock lock(mutex_);
  call_ = std::move(call);
  if (call_ && cancelled()) call_();
}

Status TakeStop::check() const { return cancelled() ? Status(cancelled_error()) : Status(); }

void TakeStop::close() {
  const MutexLock lock(mutex_);
  closed_ = true;
  call_ = nullptr;
}

Take::Take(const Context& context, const CheckpointOptions& options)
    : guest_(context.guest),
      log_(context.log),
      stop_(context.stop),
      observer_(context.observer),
      clock_(context.clock),
      make_output_(context.make_output),
      options_(options),
      begin_(clock_.now()),
      since_(begin_),
      followed_(context.log.tracking()) {}

Take::~Take() = default;

CheckpointReport Take::run() {
  const auto cpu = thread_cpu();
  Status status = guarded([&] { return work(); });
  if (!status) {
    // Whoever is told to end fails with that; why it was told is what counts.
    if (stop_.cancelled()) {
      status = cancelled_error();
    } else if (status.error().code == ErrorCode::kCancelled && lanes_ != nullptr) {
      if (Status first = lanes_->failure(); !first) status = std::move(first);
    }
    status.error().phase = phase_;
    status.error().side = Side::kSource;
  }
  stop_.close();
  if (!status) {
    give_up();
    if (stands_) {
      status.error().message += "; and the guest could not be let run on";
    }
  }
  fill_report(status, cpu);
  lanes_.reset();
  // The file that was not finished goes now.
  writer_.reset();
  report_.total_ms = ms_since(begin_);
  return std::move(report_);
}

Status Take::work() {
  MIGRATE_TRY(look());
  MIGRATE_TRY(open_base());
  MIGRATE_TRY(open_output());
  MIGRATE_TRY(arm());
  MIGRATE_TRY(stop_.check());
  note(report_.phases_ms.setup);
  MIGRATE_TRY(stand());
  if (live_ != nullptr) MIGRATE_TRY(run_on());
  MIGRATE_TRY(start_lanes());
  MIGRATE_TRY(wait_saved());
  if (live_ == nullptr) {
    note(report_.phases_ms.memory);
    MIGRATE_TRY(run_on());
  }
  MIGRATE_TRY(wait_written());
  return publish();
}

Status Take::publish() {
  MIGRATE_ASSIGN(written_, writer_->finish());
  stop_.close();
  note(report_.phases_ms.publish);
  const std::string id = to_text(header_.id);
  if (options_.keep_tracking) {
    log_.begin_anew(id);
  } else {
    log_.stop();
  }
  say("checkpoint-written", id + " " + std::to_string(written_.file_bytes) + " bytes");
  return {};
}

void Take::give_up() {
  const Status failed = make_error(ErrorCode::kCancelled, "the checkpoint has failed");
  if (lanes_ != nullptr) {
    end_lanes(failed.error());
    (void)lanes_->finish();
  }
  // Writable first: the guest is not held up when it runs on.
  if (live_ != nullptr) live_->close();
  if (stands_) {
    const Status resumed = guarded([&] { return guest_.resume(); });
    stands_ = !resumed;
  }
  // Nobody asked for it before, and there is no image that it could belong to.
  if (!followed_ || log_.since().empty()) log_.stop();
}

void Take::fill_report(const Status& status, std::chrono::nanoseconds cpu_begin) {
  report_.path = options_.path;
  report_.live = live_wanted_;
  auto cpu = thread_cpu() - cpu_begin;
  if (lanes_ != nullptr) cpu += lanes_->cpu();
  if (live_ != nullptr) {
    const LiveMemory::Figures figures = live_->figures();
    report_.pages.copied = figures.copied;
    report_.faults.count = figures.times.count();
    report_.faults.p50_us = figures.times.quantile_us(0.5);
    report_.faults.p99_us = figures.times.quantile_us(0.99);
    report_.faults.max_us = figures.times.max_us();
    cpu += figures.cpu;
  }
  report_.cpu_s = std::chrono::duration<double>(cpu).count();
  for (const Region& region : description_.guest.regions) {
    report_.pages.total += region.range.count;
  }
  report_.bytes.guest = report_.pages.total * kPageSize;
  if (status) {
    report_.outcome = Outcome::kDone;
    report_.id = to_text(header_.id);
    if (header_.incremental()) report_.parent = to_text(header_.parent);
    report_.pages.stored = written_.pages.stored;
    report_.pages.zero = written_.pages.zero;
    report_.pages.duplicate = written_.pages.duplicate;
    report_.pages.parent = written_.pages.parent;
    report_.bytes.file = written_.file_bytes;
    return;
  }
  report_.error = status.error();
  report_.outcome = Outcome::kFailed;
  if (status.error().code == ErrorCode::kCancelled) report_.outcome = Outcome::kCancelled;
  if (phase_ == Phase::kSetup && is_refusal(status.error().code)) {
    report_.outcome = Outcome::kRefused;
  }
}

void Take::progress(std::uint64_t saved, std::uint64_t pages) {
  constexpr std::chrono::milliseconds kInterval(100);
  const auto now = clock_.now();
  if (observer_ == nullptr || now - progress_at_ < kInterval) return;
  progress_at_ = now;
  Progress told;
  told.phase = phase_;
  told.pages_left = pages > saved ? pages - saved : 0;
  for (const Region& region : description_.guest.regions) told.pages_total += region.range.count;
  told.elapsed_ms = to_ms(now - begin_);
  const double saving_ms = to_ms(now - since_);
  if (saving_ms > 0 && saved > 0) {
    told.throughput_bytes_per_s = static_cast<double>(saved * kPageSize) / (saving_ms / 1000);
    told.eta_ms = saving_ms * static_cast<double>(told.pages_left) / static_cast<double>(saved);
  }
  told.bytes_sent = saved * kPageSize;
  observer_->on_progress(told);
}

void Take::say(std::string name, std::string detail) {
  if (observer_ != nullptr) observer_->on_event({std::move(name), phase_, 0, std::move(detail)});
}

double Take::ms_since(SteadyTime then) const { return to_ms(clock_.now() - then); }

void Take::note(double& phase_ms) {
  const auto now = clock_.now();
  phase_ms += to_ms(now - std::exchange(since_, now));
}

}  // namespace migrate::checkpoint
