#include "checkpoint/lazy_restore.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/guarded.hpp"
#include "base/thread_cpu.hpp"

namespace migrate::checkpoint {
namespace {

using postcopy::FaultThreads;
using postcopy::LazyMemory;
using postcopy::LazyRange;
using postcopy::SteadyClock;
using std::chrono::nanoseconds;

/// A disk has so many reads under way at a time; each is of a thread of the guest that waits.
constexpr std::size_t kFaultThreads = 4;
/// What comes with a page that lies in the file as it is: 64 KiB are read and put in place in about
/// the time of one fault.
constexpr std::uint64_t kAroundPages = 16;
/// Of a frame that was unpacked anyway so many pages are put in place at a time.
constexpr std::size_t kStagedPages = 32;
/// Between tries to read a page: what a server of files that restarts brings is over by then, or
/// is for good.
constexpr std::array<int, 5> kRetryMs = {1, 10, 50, 200, 500};

/// Pages that follow each other, gathered to be put in place by one call.
class Staging {
 public:
  Staging(LazyFill& fill, LazyRange& range) : fill_(fill), range_(range) {}
  Status add(std::uint64_t page, const std::byte* content) {
    if (content == nullptr || !range_.states.wanted.test(page)) return {};
    if (count_ > 0 && (page != first_ + count_ || count_ == kStagedPages)) MIGRATE_TRY(flush());
    if (count_ == 0) {
      first_ = page;
      if (room_.empty()) room_.resize(kStagedPages * kPageSize);
    }
    std::memcpy(room_.data() + count_++ * kPageSize, content, kPageSize);
    return {};
  }
  Status flush() {
    const std::size_t count = std::exchange(count_, 0);
    if (count == 0) return {};
    return fill_.put(range_, first_, count, room_.data(), fill_.counts().demand);
  }

 private:
  LazyFill& fill_;
  LazyRange& range_;
  std::vector<std::byte> room_;
  std::uint64_t first_ = 0;
  std::size_t count_ = 0;
};

}  // namespace

Result<std::unique_ptr<LazyRestore>> LazyRestore::create(std::shared_ptr<const ImageChain> chain,
                                                         PageSink& pages, Options options) {
  return guarded([&]() -> Result<std::unique_ptr<LazyRestore>> {
    MIGRATE_ASSIGN(EventFd stop, EventFd::create());
    std::unique_ptr<LazyRestore> made(new LazyRestore(std::move(stop)));
    MIGRATE_ASSIGN(auto memory, LazyMemory::create(pages, chain->regions()));
    made->fill_ =
        std::make_unique<LazyFill>(std::move(chain), std::move(memory), [restore = made.get()] {
          const MutexLock lock(restore->mutex_);
          restore->complete_ = true;
          restore->news_.notify_all();
        });
    MIGRATE_TRY(made->start(std::move(options)));
    return made;
  });
}

Status LazyRestore::start(Options options) {
  threads_ = options.threads;
  recording_.store(options.record);
  MIGRATE_TRY(fill_->pager().miss_all());
  background_ =
      std::make_unique<BackgroundFill>(*fill_, [this](Error error) { lose(std::move(error)); });
  MIGRATE_ASSIGN(faults_, FaultThreads::start(
                              fill_->memory().userfault(),
                              [this](std::span<const PageFault> faults) { return serve(faults); },
                              [this](std::span<const PageFault> faults) {
                                for (const PageFault& fault : faults) {
                                  const std::uint64_t page = fault.address / kPageSize * kPageSize;
                                  fill_->memory().userfault().wake({page, page + kPageSize});
                                }
                              },
                              {.threads = kFaultThreads, .together_max = 1}));
  if (!options.prefetch) return {};
  prefetch_ = std::make_unique<Prefetch>(*fill_, *std::move(options.prefetch));
  return prefetch_->start(threads_);
}

LazyRestore::~LazyRestore() {
  if (started_ && fill_ != nullptr && missing_pages() > 0) fill_->memory().forbid();
  stop();
}

void LazyRestore::stop_reading_ahead() {
  if (prefetch_ != nullptr) prefetch_->stop();
  if (background_ != nullptr) background_->stop();
}

void LazyRestore::stop() {
  stop_reading_ahead();
  {
    const MutexLock lock(mutex_);
    on_loss_ = nullptr;  // Whoever waits for a page that is tried again is not lost by this.
  }
  stop_.set();
  faults_.reset();
}

bool LazyRestore::serve(std::span<const PageFault> faults) {
  const auto cpu = thread_cpu();
  const auto now = SteadyClock::now();
  const Status served = guarded([&]() -> Status {
    std::vector<wire::Demand::Pages> demands;
    demands.reserve(faults.size());
    Status all;
    for (const PageFault& fault : faults) {
      if (Status one = fill_->pager().fault(fault, now, demands); !one) all = std::move(one);
    }
    for (const auto& demand : demands) {
      bring(*fill_->range_of(static_cast<std::uint16_t>(demand.region.number)), demand.first);
    }
    return all;
  });
  fault_cpu_ns_.fetch_add((thread_cpu() - cpu).count());
  return served.has_value();
}

/// Until it is in place or lost.
void LazyRestore::bring(LazyRange& range, std::uint64_t first) {
  const auto region = static_cast<std::uint16_t>(range.handle);
  const bool alone = recording_.load();
  if (alone) note(region, first, range.granule);
  Status brought;
  for (std::size_t tries = 0;; ++tries) {
    brought = guarded([&] { return try_to_bring(range, first, alone); });
    if (brought || tries == kRetryMs.size()) break;
    pollfd stop{stop_.fd(), POLLIN, 0};
    if (::poll(&stop, 1, kRetryMs[tries]) > 0) break;
  }
  if (!brought) return lose(std::move(brought).error());
  background_->fault(region, first, range.granule);
}

Status LazyRestore::try_to_bring(LazyRange& range, std::uint64_t first, bool alone) {
  MIGRATE_ASSIGN(const auto loan, fill_->readers().take());
  ImageReader& reader = *loan.operator->();
  if (range.granule == 1) return bring_around(reader, range, first, alone);
  std::vector<std::byte> room(range.granule * kPageSize);
  MIGRATE_TRY(fill_->read_granule(reader, range, first, room.data()));
  return fill_->put(range, first, range.granule, room.data(), fill_->counts().demand);
}

Status LazyRestore::bring_around(ImageReader& reader, LazyRange& range, std::uint64_t page,
                                 bool alone) {
  Staging staging(*fill_, range);
  Status placed;
  const auto take = [&](std::uint64_t taken, const std::byte* content) -> Status {
    // It goes first, so that its thread goes on while the others are put in place.
    if (taken == page) {
      placed = fill_->put(range, page, 1, content, fill_->counts().demand);
    } else if (!alone) {
      placed = staging.add(taken, content);
    }
    return placed;
  };
  const Status read = reader.read_around(static_cast<std::uint16_t>(range.handle), page,
                                         alone ? 1 : kAroundPages, take);
  MIGRATE_TRY(std::move(placed));
  MIGRATE_TRY(staging.flush());
  // What lies around it and cannot be read is nobody's yet.
  return range.states.here.test(page) ? Status() : read;
}

void LazyRestore::note(std::uint16_t region, std::uint64_t first, std::uint64_t count) {
  const MutexLock lock(mutex_);
  for (std::uint64_t page = first; page < first + count; ++page) touched_.push_back({region, page});
}

std::vector<TouchedPage> LazyRestore::take_touched() {
  recording_.store(false);
  const MutexLock lock(mutex_);
  return std::move(touched_);
}

void LazyRestore::lose(Error error) {
  std::function<void(const Error&)> tell;
  {
    const MutexLock lock(mutex_);
    if (loss_) return;
    loss_ = std::move(error);
    tell = std::move(on_loss_);
    news_.notify_all();
  }
  fill_->pager().give_up();  // Nothing, once the guest may wait.
  if (tell) tell(*loss());
}

std::optional<Error> LazyRestore::loss() {
  const MutexLock lock(mutex_);
  return loss_;
}

void LazyRestore::serve_on(std::function<void(const Error&)> on_loss) {
  std::optional<Error> lost;
  {
    const MutexLock lock(mutex_);
    lost = loss_;
    if (!lost) on_loss_ = on_loss;
  }
  if (lost) on_loss(*lost);
}

Status LazyRestore::let_guest_wait() {
  fill_->pager().guest_may_wait();
  // Whoever loaded the state may have had zeros instead.
  if (auto lost = loss()) return *std::move(lost);
  return {};
}

Status LazyRestore::fill_rest() { return background_->start(threads_); }

LazyRestore::State LazyRestore::wait_until(SteadyClock::time_point deadline) {
  const MutexLock lock(mutex_);
  while (!complete_ && !loss_ && !woken_) {
    if (!news_.wait_until(mutex_, deadline)) break;
  }
  if (loss_) return State::kLost;
  return complete_ ? State::kComplete : State::kFollows;
}

void LazyRestore::wake() noexcept {
  const MutexLock lock(mutex_);
  woken_ = true;
  news_.notify_all();
}

void LazyRestore::give_up() noexcept {
  stop_.set();
  fill_->pager().give_up();
}

LazyFigures LazyRestore::figures() {
  const postcopy::FaultTimes times = fill_->pager().times();
  LazyFigures figures;
  figures.faults = times.count();
  figures.local_faults = fill_->pager().local_faults();
  figures.fault_p50_us = times.quantile_us(0.50);
  figures.fault_p99_us = times.quantile_us(0.99);
  figures.fault_max_us = times.max_us();
  figures.stall_us_by_thread = times.stall_us_by_thread();
  figures.demand = fill_->counts().demand.load();
  figures.prefetched = fill_->counts().prefetched.load();
  figures.background = fill_->counts().background.load();
  figures.file_bytes = fill_->readers().bytes_read();
  figures.cpu = nanoseconds(fault_cpu_ns_.load());
  if (background_ != nullptr) figures.cpu += background_->cpu();
  if (prefetch_ != nullptr) figures.cpu += prefetch_->cpu();
  return figures;
}

}  // namespace migrate::checkpoint
