#include "checkpoint/eager_fill.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "base/guarded.hpp"
#include "base/mutex.hpp"
#include "base/start_thread.hpp"
#include "base/thread_cpu.hpp"

namespace migrate::checkpoint {
namespace {

using std::chrono::milliseconds;

/// One reads, checks and places some 4 GB/s of what is in the page cache: eight have a host's
/// memory busy.
constexpr unsigned kThreadsMax = 16;
constexpr unsigned kThreadsDefaultMax = 8;
constexpr milliseconds kProgressInterval{100};

/// As many again wait for the disk: no guest runs yet that they would be in the way of.
unsigned eager_threads(unsigned lanes) {
  return lanes > 0 ? reading_threads(lanes) : std::min(2 * reading_threads(0), kThreadsDefaultMax);
}

/// Calls f(first, count) for each maximal run of pages that are not zero.
template <typename F>
Status for_each_filled_run(std::span<const FoundPage> found, F&& f) {
  for (std::size_t i = 0; i < found.size();) {
    if (found[i].file == nullptr) {
      ++i;
      continue;
    }
    std::size_t end = i + 1;
    while (end < found.size() && found[end].file != nullptr) ++end;
    MIGRATE_TRY(f(i, end - i));
    i = end;
  }
  return {};
}

class EagerFill {
 public:
  EagerFill(const EagerContext& context, std::span<const PagesPart> parts)
      : context_(context), parts_(parts) {}

  Result<EagerFigures> run();

 private:
  void work() MIGRATE_EXCLUDES(mutex_);
  Status work_parts(EagerFigures& figures);
  Status fill(ImageReader& reader, const PagesPart& part, std::vector<FoundPage>& found,
              EagerFigures& figures);
  Status fill_unmapped(ImageReader& reader, const PagesPart& part,
                       std::span<const FoundPage> found);

  const EagerContext& context_;
  const std::span<const PagesPart> parts_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint64_t> pages_done_{0};
  std::atomic<bool> failed_{false};

  Mutex mutex_;
  CondVar ended_;
  unsigned working_ MIGRATE_GUARDED_BY(mutex_) = 0;
  std::optional<Error> error_ MIGRATE_GUARDED_BY(mutex_);
  EagerFigures figures_ MIGRATE_GUARDED_BY(mutex_);
};

Result<EagerFigures> EagerFill::run() {
  const auto threads_max =
      static_cast<unsigned>(std::min<std::size_t>(eager_threads(context_.lanes), parts_.size()));
  std::vector<std::thread> threads(threads_max);
  Status started;
  for (std::thread& thread : threads) {
    {
      const MutexLock lock(mutex_);
      ++working_;
    }
    started = start_thread(thread, "mig-restore", [this] { work(); });
    if (started) continue;
    const MutexLock lock(mutex_);
    --working_;
    break;
  }
  // Fewer threads do it, too.
  const bool none = threads.empty() || !threads.front().joinable();
  {
    const MutexLock lock(mutex_);
    while (working_ > 0) {
      const auto until = std::chrono::steady_clock::now() + kProgressInterval;
      if (!ended_.wait_until(mutex_, until) && context_.on_progress) {
        context_.on_progress(pages_done_.load());
      }
    }
  }
  for (std::thread& thread : threads) {
    if (thread.joinable()) thread.join();
  }
  if (none && !parts_.empty()) return std::move(started).error();
  const MutexLock lock(mutex_);
  if (error_) return *std::move(error_);
  return figures_;
}

void EagerFill::work() {
  const auto cpu = thread_cpu();
  EagerFigures figures;
  Status done = guarded([&] { return work_parts(figures); });
  const MutexLock lock(mutex_);
  figures_.digest += figures.digest;
  figures_.zero += figures.zero;
  figures_.filled += figures.filled;
  figures_.file_bytes += figures.file_bytes;
  figures_.cpu += thread_cpu() - cpu;
  if (!done) {
    failed_.store(true);
    if (!error_) error_ = std::move(done).error();
  }
  if (--working_ == 0) ended_.notify_all();
}

Status EagerFill::work_parts(EagerFigures& figures) {
  MIGRATE_ASSIGN(const auto reader, ImageReader::create(context_.chain));
  std::vector<FoundPage> found;
  for (;;) {
    const std::size_t index = next_.fetch_add(1);
    if (index >= parts_.size() || failed_.load()) break;
    if (context_.stop.load()) {
      return make_error(ErrorCode::kCancelled, "the restore was cancelled");
    }
    MIGRATE_TRY(fill(*reader, parts_[index], found, figures));
    pages_done_.fetch_add(parts_[index].count);
  }
  figures.file_bytes = reader->bytes_read();
  return {};
}

Status EagerFill::fill(ImageReader& reader, const PagesPart& part, std::vector<FoundPage>& found,
                       EagerFigures& figures) {
  found.assign(part.count, {});
  MIGRATE_TRY(context_.chain->find(part.region, part.first, found));
  const wire::PageDigest& digest = context_.chain->digest();
  std::uint64_t filled = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i].file == nullptr) continue;
    ++filled;
    figures.digest += digest.mix(wire::RegionHandle{part.region}, part.first + i, found[i].hash);
  }
  figures.filled += filled;
  figures.zero += part.count - filled;
  if (filled == 0) return {};
  const auto memory = context_.pages.mapped(context_.chain->regions()[part.region].id);
  if (memory.empty()) return fill_unmapped(reader, part, found);
  // Having it from the kernel first (MADV_POPULATE_WRITE) costs as much as the faults: 0.5 s of
  // processor time a GiB either way in small pages, 0.2 s in huge ones.
  return reader.read(part.region, part.first, part.count, memory.data() + part.first * kPageSize);
}

Status EagerFill::fill_unmapped(ImageReader& reader, const PagesPart& part,
                                std::span<const FoundPage> found) {
  std::vector<std::byte> content(part.count * kPageSize);
  MIGRATE_TRY(reader.read(part.region, part.first, part.count, content.data()));
  const Region& region = context_.chain->regions()[part.region];
  return for_each_filled_run(found, [&](std::size_t first, std::size_t count) {
    return context_.pages.write(region.id, {region.range.first + part.first + first, count},
                                std::span(content).subspan(first * kPageSize, count * kPageSize));
  });
}

}  // namespace

std::vector<PagesPart> all_parts(std::span<const Region> regions) {
  std::vector<PagesPart> parts;
  for (std::size_t region = 0; region < regions.size(); ++region) {
    const std::uint64_t pages = regions[region].range.count;
    for (std::uint64_t first = 0; first < pages; first += kPagesPerIndex) {
      parts.push_back(
          {static_cast<std::uint16_t>(region), first, std::min(kPagesPerIndex, pages - first)});
    }
  }
  return parts;
}

unsigned reading_threads(unsigned lanes) {
  if (lanes > 0) return std::min(lanes, kThreadsMax);
  return std::clamp(std::thread::hardware_concurrency(), 1u, kThreadsDefaultMax);
}

Result<EagerFigures> fill_eagerly(const EagerContext& context, std::span<const PagesPart> parts) {
  return guarded([&] { return EagerFill(context, parts).run(); });
}

}  // namespace migrate::checkpoint
