#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/guarded.hpp"
#include "base/thread_cpu.hpp"
#include "checkpoint/mapped_fill.hpp"
#include "checkpoint/restore_impl.hpp"
#include "checkpoint/state_sections.hpp"

namespace migrate {
namespace {

using std::chrono::duration;

bool says_no_to_the_image(ErrorCode code) {
  return code == ErrorCode::kIncompatible || code == ErrorCode::kUnsupported ||
         code == ErrorCode::kVersionMismatch || code == ErrorCode::kInvalidArgument ||
         code == ErrorCode::kNameTaken;
}

Error cancelled_error() { return make_error(ErrorCode::kCancelled, "the restore was cancelled"); }

}  // namespace

Restore::Impl::Impl(std::unique_ptr<TargetGuest> guest, RestoreOptions options, Host& host,
                    Observer* observer, Clock& clock)
    : guest_(std::move(guest)),
      options_(std::move(options)),
      host_(host),
      observer_(observer),
      clock_(clock) {
  MIGRATE_CHECK(guest_ != nullptr);
  if (options_.stream < 0) return;
  if (auto made = EventFd::create()) cancelled_ = *std::move(made);
}

RestoreResult Restore::Impl::run() {
  begin_ = clock_.now();
  const auto cpu = thread_cpu();
  RestoreResult result;
  report_.mode = to_string(options_.mode);
  report_.path = options_.path;
  Status restored = guarded([&] { return restore(); });
  if (!restored) {
    fail(std::move(restored).error());
  } else {
    result.outcome = Outcome::kDone;
    after_start();
  }
  if (memory_lost_ || maybe_started_) result.outcome = Outcome::kLost;
  if (error_ && !memory_lost_ && !maybe_started_) {
    result.outcome = error_->code == ErrorCode::kCancelled ? Outcome::kCancelled
                     : refused_                            ? Outcome::kRefused
                                                           : Outcome::kFailed;
  }
  report_.outcome = result.outcome;
  report_.total_ms = elapsed_ms();
  report_.cpu_s += duration<double>(thread_cpu() - cpu).count();
  report_.error = std::move(error_);
  result.report = std::move(report_);
  result.waiting_memory = std::move(waiting_memory_);
  result.guest = std::move(guest_);
  return result;
}

template <typename Step>
Status Restore::Impl::timed(double& ms, Phase phase, Step&& step) {
  MIGRATE_TRY(not_cancelled());
  const auto begin = clock_.now();
  Status done = std::forward<Step>(step)();
  ms += duration<double, std::milli>(clock_.now() - begin).count();
  if (done) return {};
  Error error = std::move(done).error();
  if (error.phase == Phase::kNone) error.phase = phase;
  return error;
}

Status Restore::Impl::restore() {
  auto& ms = report_.phases_ms;
  Status fits = timed(ms.open, Phase::kSetup, [&]() -> Status {
    MIGRATE_TRY(check_options());
    return options_.stream >= 0 ? open_stream() : open();
  });
  if (fits) {
    report_.name = description().guest.name;
    for (const Region& region : description().guest.regions) {
      report_.pages.total += region.range.count;
    }
    report_.bytes.guest = report_.pages.total * kPageSize;
    fits =
        timed(ms.prepare, Phase::kPreflight, [&] { return guest_->prepare(description().guest); });
  }
  if (!fits) {
    refused_ = says_no_to_the_image(fits.error().code);
    return fits;
  }
  MIGRATE_TRY(timed(ms.memory, Phase::kFinalPages, [&] { return fill_memory(); }));
  MIGRATE_TRY(timed(ms.state_load, Phase::kStateLoad, [&] { return load_state(); }));
  MIGRATE_TRY(timed(ms.start, Phase::kHandover, [&] { return guest_->acquire(); }));
  MIGRATE_TRY(timed(ms.start, Phase::kHandover, [&] { return host_.open(description().guest); }));
  return timed(ms.start, Phase::kStart, [&] { return start(); });
}

Status Restore::Impl::check_options() const {
  const bool lazy = options_.mode == RestoreMode::kLazy;
  const auto wrong = [](const char* what, const char* remedy) {
    return make_error(ErrorCode::kInvalidArgument, what).advise(remedy);
  };
  if (options_.stream >= 0 && options_.mode != RestoreMode::kEager) {
    return wrong("a stream is read in one go, and can only be restored eagerly",
                 "write the image to a file first, or restore it without --lazy and --mapped");
  }
  if (!lazy && (!options_.record.empty() || !options_.prefetch.empty())) {
    return wrong("a working set is recorded and prefetched by a lazy restore only", "add --lazy");
  }
  if (!options_.record.empty() && !options_.prefetch.empty()) {
    return wrong("what is prefetched is not seen to be touched, and cannot be recorded",
                 "record without --prefetch, then restore with it");
  }
  return {};
}

/// What is recorded replaces what is at its path.
Status Restore::Impl::check_record() const {
  if (options_.record.empty()) return {};
  for (const auto& file : chain_->files()) {
    std::error_code error;
    if (!std::filesystem::equivalent(file->path(), options_.record, error)) continue;
    return make_error(ErrorCode::kInvalidArgument,
                      "the working set would replace the image " + file->path())
        .advise("give it another path");
  }
  return {};
}

Status Restore::Impl::open() {
  MIGRATE_ASSIGN(chain_, checkpoint::ImageChain::open(options_.path, options_.search));
  MIGRATE_TRY(check_record());
  report_.id = to_text(chain_->top().header().id);
  const auto& pages = chain_->top().directory().pages;
  report_.pages.stored = pages.stored + pages.parent;
  report_.pages.zero = pages.zero;
  report_.pages.duplicate = pages.duplicate;
  return {};
}

Status Restore::Impl::load_state() {
  std::vector<checkpoint::Section> sections = std::move(stream_state_);
  if (stream_ == nullptr) {
    MIGRATE_ASSIGN(sections, chain_->state());
  }
  checkpoint::SectionsReader reader(std::move(sections));
  Status loaded = guest_->load_state(reader);
  if (lazy_ == nullptr) return loaded;
  // Why it could not be read explains what the guest says of it.
  MIGRATE_TRY(lazy_->let_guest_wait());
  return loaded;
}

/// The last moment to cancel is before the guest's own.
Status Restore::Impl::start() {
  Gate open = Gate::kOpen;
  if (!gate_.compare_exchange_strong(open, Gate::kStarted)) return cancelled_error();
  const RunState state = options_.paused ? RunState::kPaused : description().run_state;
  // What is missing must not be taken for zeros from here on, whatever happens.
  if (lazy_ != nullptr) lazy_->started();
  Status started = guest_->start(state);
  if (!started) {
    maybe_started_ = started.error().code == ErrorCode::kGuestLost;
    return started;
  }
  report_.started_ms = elapsed_ms();
  if (lazy_ != nullptr) host_.on_memory(Host::Memory::kFollows, {});
  host_.started();
  return {};
}

Status Restore::Impl::not_cancelled() const {
  return gate_.load() == Gate::kCancelled ? cancelled_error() : Status();
}

bool Restore::Impl::cancel() noexcept {
  Gate open = Gate::kOpen;
  if (!gate_.compare_exchange_strong(open, Gate::kCancelled)) return open == Gate::kCancelled;
  stop_.store(true);
  if (cancelled_) cancelled_->set();
  const MutexLock lock(mutex_);
  if (reading_ != nullptr) reading_->interrupt();
  if (waking_ != nullptr) waking_->give_up();
  return true;
}

void Restore::Impl::guest_ended() noexcept {
  guest_gone_.store(true);
  const MutexLock lock(mutex_);
  if (waking_ != nullptr) waking_->wake();
}

/// Before the start, or in it.
void Restore::Impl::fail(Error error) {
  if (gate_.load() == Gate::kCancelled) error = cancelled_error().at(error.phase);
  if (error.side == Side::kNone) error.side = Side::kTarget;
  {
    const MutexLock lock(mutex_);
    waking_ = nullptr;
    reading_ = nullptr;
  }
  if (maybe_started_) {
    // What waits of it goes on waiting.
    waiting_memory_ = std::move(lazy_);
  } else {
    lazy_.reset();
    guest_->discard();
  }
  error_ = std::move(error);
}

void Restore::Impl::say(std::string name, std::string detail, Phase phase) {
  if (observer_ != nullptr) observer_->on_event({std::move(name), phase, 0, std::move(detail)});
}

void Restore::Impl::show_progress(std::uint64_t pages_done) {
  if (observer_ == nullptr) return;
  Progress progress;
  progress.phase = lazy_ != nullptr ? Phase::kPostcopy : Phase::kFinalPages;
  progress.pages_total = report_.pages.total;
  progress.pages_left = report_.pages.total - std::min(pages_done, report_.pages.total);
  progress.elapsed_ms = elapsed_ms();
  if (progress.elapsed_ms > 0) {
    progress.throughput_bytes_per_s =
        static_cast<double>(pages_done * kPageSize) / progress.elapsed_ms * 1000;
  }
  observer_->on_progress(progress);
}

double Restore::Impl::elapsed_ms() const {
  return duration<double, std::milli>(clock_.now() - begin_).count();
}

const checkpoint::ImageDescription& Restore::Impl::description() const {
  return stream_ != nullptr ? stream_->description() : chain_->top().description();
}

Restore::Restore(std::unique_ptr<TargetGuest> guest, RestoreOptions options, Host& host,
                 Observer* observer, Clock& clock)
    : impl_(std::make_unique<Impl>(std::move(guest), std::move(options), host, observer, clock)) {}
Restore::~Restore() = default;
RestoreResult Restore::run() { return impl_->run(); }
bool Restore::cancel() noexcept { return impl_->cancel(); }
void Restore::guest_ended() noexcept { impl_->guest_ended(); }

}  // namespace migrate
