#include "checkpoint/background_fill.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"
#include "base/thread_cpu.hpp"

namespace migrate::checkpoint {
namespace {

using postcopy::LazyRange;
using postcopy::PushOrder;
using std::chrono::milliseconds;

/// 2 MiB: most frames are no longer, and a fault that comes meanwhile is served by others.
constexpr std::uint64_t kBatchPages = 512;
/// A guest's own threads come first where there are not enough processors: a third of their weight.
constexpr int kNice = 5;
/// While a fault is served nothing is read, but no longer than this: a guest that faults all the
/// time needs the rest, too.
constexpr milliseconds kStandBack{1};
constexpr int kStandBackMax = 4;

}  // namespace

Status BackgroundFill::start(unsigned threads) {
  MIGRATE_TRY(guarded([&]() -> Status {
    std::vector<PushOrder::Part> parts;
    const auto& regions = fill_.chain().regions();
    for (std::size_t i = 0; i < regions.size(); ++i) {
      const LazyRange* const range = fill_.range_of(static_cast<std::uint16_t>(i));
      parts.push_back({regions[i], static_cast<std::uint32_t>(range->granule)});
    }
    auto order = std::make_unique<PushOrder>(parts);
    PageBitmap all(regions);
    all.set_all();
    order->set_missing(all);
    order->open();
    threads_.resize(threads);
    const MutexLock lock(mutex_);
    order_ = std::move(order);
    return {};
  }));
  for (std::thread& thread : threads_) {
    Status started = start_thread(thread, "mig-background", [this] { work(); });
    if (!started && &thread == threads_.data()) return started;
    if (!started) break;
  }
  return {};
}

void BackgroundFill::stop() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
    stopped_.notify_all();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

std::chrono::nanoseconds BackgroundFill::cpu() {
  const MutexLock lock(mutex_);
  return cpu_;
}

void BackgroundFill::fault(std::uint16_t region, std::uint64_t first, std::uint64_t count) {
  const MutexLock lock(mutex_);
  if (order_ != nullptr) order_->fault(region, {first, count});
}

void BackgroundFill::work() {
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);
  Status done = guarded([&] { return work_batches(); });
  {
    const MutexLock lock(mutex_);
    cpu_ += thread_cpu();
    if (!done) stop_ = true;
  }
  if (!done) on_failure_(std::move(done).error());
}

Status BackgroundFill::work_batches() {
  MIGRATE_ASSIGN(const auto reader, fill_.readers().take());
  Room room;
  PushOrder::Batch batch;
  while (!next(batch)) {
    LazyRange& range = *fill_.range_of(static_cast<std::uint16_t>(batch.region));
    let_faults_by();
    for (const PushOrder::Run& run : batch.runs) {
      MIGRATE_TRY(bring(*reader.operator->(), range, run, room));
    }
  }
  return {};
}

bool BackgroundFill::next(PushOrder::Batch& batch) {
  const MutexLock lock(mutex_);
  return stop_ || !order_->next(kBatchPages, batch);
}

void BackgroundFill::let_faults_by() {
  for (int i = 0; i < kStandBackMax && fill_.pager().oldest_wait(); ++i) {
    const MutexLock lock(mutex_);
    if (stop_) return;
    (void)stopped_.wait_until(mutex_, std::chrono::steady_clock::now() + kStandBack);
  }
}

/// Reads from the first page that nobody has brought to the last, in one go.
Status BackgroundFill::bring(ImageReader& reader, LazyRange& range, PushOrder::Run run,
                             Room& room) {
  const auto region = static_cast<std::uint16_t>(range.handle);
  const std::uint64_t granule = range.granule;
  auto& counter = fill_.counts().background;
  room.found.assign(run.count, {});
  MIGRATE_TRY(fill_.chain().find(region, run.first, room.found));
  const auto is_zero = [&](std::uint64_t i) { return room.found[i].file == nullptr; };
  std::uint64_t begin = run.count;
  std::uint64_t end = 0;
  for (std::uint64_t i = 0; i < run.count;) {
    std::uint64_t zeros = i;
    while (zeros < run.count && is_zero(zeros)) ++zeros;
    zeros = i + (zeros - i) / granule * granule;
    if (zeros > i) {
      fill_.leave_as_zeros(range, run.first + i, zeros - i, counter);
      i = zeros;
      continue;
    }
    if (range.states.wanted.test(run.first + i)) {
      begin = std::min(begin, i);
      end = i + granule;
    }
    i += granule;
  }
  if (begin >= end) return {};
  MIGRATE_TRY(room.content.reserve(run.count * kPageSize));
  std::byte* const content = room.content.bytes().data();
  for (std::uint64_t i = begin; i < end; ++i) {
    if (is_zero(i)) std::memset(content + (i - begin) * kPageSize, 0, kPageSize);
  }
  MIGRATE_TRY(reader.read(region, run.first + begin, end - begin, content));
  return fill_.put(range, run.first + begin, end - begin, content, counter);
}

}  // namespace migrate::checkpoint
