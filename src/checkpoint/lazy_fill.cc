#include "checkpoint/lazy_fill.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace migrate::checkpoint {

using postcopy::LazyRange;

namespace {

/// Put in place by one call: who waits for another page of it waits for some 30 us of copying.
constexpr std::uint64_t kRunPagesMax = 64;

}  // namespace

LazyFill::LazyFill(std::shared_ptr<const ImageChain> chain,
                   std::unique_ptr<postcopy::LazyMemory> memory, std::function<void()> on_complete)
    : readers_(std::move(chain)),
      memory_(std::move(memory)),
      by_region_(memory_->ranges().size()),
      pager_(*memory_),
      on_complete_(std::move(on_complete)) {
  for (const auto& range : memory_->ranges()) by_region_[range->handle] = range.get();
}

LazyFill::Claimed LazyFill::claim_run(LazyRange& range, std::uint64_t from, std::uint64_t end,
                                      std::uint64_t pages_max) {
  while (from < end && !pager_.claim(range, from)) from += range.granule;
  Claimed run{from, 0};
  if (from >= end) return run;
  run.count = range.granule;
  while (run.count < pages_max && from + run.count < end && pager_.claim(range, from + run.count)) {
    run.count += range.granule;
  }
  return run;
}

Status LazyFill::put(LazyRange& range, std::uint64_t first, std::uint64_t count,
                     const std::byte* content, std::atomic<std::uint64_t>& count_into) {
  const std::uint64_t end = first + count;
  for (std::uint64_t at = first; at < end;) {
    const Claimed run = claim_run(range, at, end, kRunPagesMax);
    if (run.count == 0) break;
    const std::byte* const from =
        content == nullptr ? nullptr : content + (run.first - first) * kPageSize;
    MIGRATE_TRY(fill(range, run, from, count_into));
    at = run.first + run.count;
  }
  return {};
}

Status LazyFill::fill(LazyRange& range, Claimed run, const std::byte* content,
                      std::atomic<std::uint64_t>& count_into) {
  for (std::uint64_t done = 0; done < run.count;) {
    const std::uint64_t first = run.first + done;
    const std::uint64_t count = run.count - done;
    const auto filled = content != nullptr
                            ? memory_->copy(range, first, count, content + done * kPageSize)
                            : memory_->fill_with_zeros(range, first, count);
    const std::uint64_t pages = filled.bytes / kPageSize;
    if (pages > 0) {
      count_into.fetch_add(pages);
      if (pager_.put_in_place(range, first, pages)) on_complete_();
      done += pages;
    }
    if (filled.sys_errno == 0) continue;
    if (filled.sys_errno == EEXIST && pager_.given_up()) {
      done += range.granule;  // Somebody who waited has got zeros.
      continue;
    }
    pager_.unclaim(range, run.first + done, run.count - done);
    return postcopy::filling_error(range, run.first + done, filled.sys_errno);
  }
  return {};
}

void LazyFill::leave_as_zeros(LazyRange& range, std::uint64_t first, std::uint64_t count,
                              std::atomic<std::uint64_t>& count_into) {
  const std::uint64_t end = first + count;
  for (std::uint64_t at = first; at < end;) {
    const Claimed run = claim_run(range, at, end, count);
    if (run.count == 0) break;
    count_into.fetch_add(run.count);
    if (pager_.leave_as_zeros(range, run.first, run.count)) on_complete_();
    at = run.first + run.count;
  }
}

Status LazyFill::read_granule(ImageReader& reader, const LazyRange& range, std::uint64_t first,
                              std::byte* room) {
  std::memset(room, 0, range.granule * kPageSize);
  return reader.read(static_cast<std::uint16_t>(range.handle), first, range.granule, room);
}

}  // namespace migrate::checkpoint
