#include "checkpoint/prefetch.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "base/guarded.hpp"
#include "base/start_thread.hpp"
#include "base/thread_cpu.hpp"

namespace migrate::checkpoint {
namespace {

using postcopy::LazyRange;

/// Read and checked at a time, while it fits the L2 cache.
constexpr std::size_t kPieceEntries = 128;

}  // namespace

Status Prefetch::start(unsigned threads) {
  set_.read_ahead();
  MIGRATE_TRY(guarded([&]() -> Status {
    threads_.resize(threads);
    return {};
  }));
  for (std::thread& thread : threads_) {
    {
      const MutexLock lock(mutex_);
      ++working_;
    }
    Status started = start_thread(thread, "mig-prefetch", [this] { work(); });
    if (started) continue;
    const MutexLock lock(mutex_);
    if (--working_ == 0 && &thread == threads_.data()) return started;
    break;
  }
  return {};
}

bool Prefetch::wait_until(std::chrono::steady_clock::time_point deadline) {
  const MutexLock lock(mutex_);
  while (working_ > 0) {
    if (!ended_.wait_until(mutex_, deadline)) return working_ == 0;
  }
  return true;
}

void Prefetch::stop() {
  stop_.store(true);
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

std::optional<Error> Prefetch::take_failure() {
  const MutexLock lock(mutex_);
  return std::exchange(failure_, std::nullopt);
}

std::chrono::nanoseconds Prefetch::cpu() {
  const MutexLock lock(mutex_);
  return cpu_;
}

void Prefetch::work() {
  Status done = guarded([&] { return work_pieces(); });
  if (!done) stop_.store(true);  // What it has not brought comes as without it.
  const MutexLock lock(mutex_);
  cpu_ += thread_cpu();
  if (!done && !failure_) failure_ = std::move(done).error();
  if (--working_ == 0) ended_.notify_all();
}

Status Prefetch::work_pieces() {
  std::vector<std::byte> content(kPieceEntries * kPageSize);
  std::vector<std::byte> granule;
  const std::size_t entries = set_.entries().size();
  while (!stop_.load()) {
    const std::size_t first = next_.fetch_add(kPieceEntries);
    if (first >= entries) break;
    MIGRATE_TRY(bring(first, std::min(kPieceEntries, entries - first), content, granule));
  }
  return {};
}

Status Prefetch::bring(std::size_t first, std::size_t count, std::vector<std::byte>& content,
                       std::vector<std::byte>& granule) {
  MIGRATE_TRY(set_.read(first, count, fill_.chain().digest(), content.data()));
  const auto entries = std::span(set_.entries()).subspan(first, count);
  MIGRATE_TRY(check(entries));
  const std::byte* at = content.data();
  for (std::size_t i = 0; i < count;) {
    const WorkingSet::Entry& entry = entries[i];
    LazyRange& range = *fill_.range_of(entry.page.region);
    if (range.granule > 1) {
      MIGRATE_TRY(bring_granule(range, entry.page.page, granule));
      if (!entry.zero) at += kPageSize;
      ++i;
      continue;
    }
    // Pages that follow each other here and there.
    std::size_t end = i + 1;
    while (end < count && entries[end].zero == entry.zero &&
           entries[end].page == TouchedPage{entry.page.region, entry.page.page + (end - i)}) {
      ++end;
    }
    MIGRATE_TRY(fill_.put(range, entry.page.page, end - i, entry.zero ? nullptr : at,
                          fill_.counts().prefetched));
    if (!entry.zero) at += (end - i) * kPageSize;
    i = end;
  }
  return {};
}

/// That it is what the image has: its own hashes only say that it came whole.
Status Prefetch::check(std::span<const WorkingSet::Entry> entries) const {
  for (const WorkingSet::Entry& entry : entries) {
    FoundPage found;
    MIGRATE_TRY(fill_.chain().find(entry.page.region, entry.page.page, std::span(&found, 1)));
    if (entry.zero == (found.file == nullptr) && entry.hash == found.hash) continue;
    return make_error(ErrorCode::kIntegrity, "the working set has another content of page " +
                                                 std::to_string(entry.page.page) + " of region " +
                                                 std::to_string(entry.page.region) +
                                                 " than the image")
        .advise("record it anew (restore --record)");
  }
  return {};
}

/// Of a huge page all has to come: from the image.
Status Prefetch::bring_granule(LazyRange& range, std::uint64_t page,
                               std::vector<std::byte>& granule) {
  const std::uint64_t first = page / range.granule * range.granule;
  if (!range.states.wanted.test(first)) return {};
  granule.resize(std::max<std::size_t>(granule.size(), range.granule * kPageSize));
  MIGRATE_ASSIGN(const auto reader, fill_.readers().take());
  MIGRATE_TRY(fill_.read_granule(*reader.operator->(), range, first, granule.data()));
  return fill_.put(range, first, range.granule, granule.data(), fill_.counts().prefetched);
}

}  // namespace migrate::checkpoint
