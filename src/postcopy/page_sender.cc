#include "postcopy/page_sender.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/thread_cpu.hpp"
#include "memory/zero_page.hpp"

namespace migrate::postcopy {

PageSender::PageSender(const Context& context, RecordChannel& channel)
    : context_(context), channel_(channel), wire_before_(channel.sent_bytes()) {
  content_.reserve(wire::kBatchEntriesMax);
}

Status PageSender::send(const SourceRegion& region, std::span<const PushOrder::Run> runs) {
  const nanoseconds cpu = thread_cpu();
  encoder_.begin(wire::RegionHandle{region.entry->handle}, context_.round);
  content_.clear();
  std::uint64_t pages = 0;
  for (const PushOrder::Run& run : runs) pages += run.count;
  MIGRATE_CHECK(pages > 0 && pages <= wire::kBatchEntriesMax);
  if (region.mapped.empty()) {
    staging_.resize(std::max<std::size_t>(staging_.size(), pages * kPageSize));
  }
  std::size_t staged = 0;
  for (const PushOrder::Run& run : runs) {
    MIGRATE_TRY(add(region, run, staged));
    staged += run.count;
  }
  MIGRATE_TRY(channel_.send_pages(encoder_, content_, context_.idle_max));
  counts_.cpu += thread_cpu() - cpu;
  return {};
}

Status PageSender::add(const SourceRegion& region, PushOrder::Run run, std::size_t staged) {
  PageLedger::Entry& entry = *region.entry;
  const std::byte* from = nullptr;
  if (region.mapped.empty()) {
    std::byte* const into = staging_.data() + staged * kPageSize;
    const PageRange range{entry.region.range.first + run.first, run.count};
    auto outcome = context_.pages.read(entry.region.id, range, {into, run.count * kPageSize});
    // Never about the link, whatever its code.
    if (!outcome) return std::move(outcome).error().on(Side::kSource);
    if (*outcome == ReadOutcome::kGone) {
      return make_error(ErrorCode::kIo, page_text(entry, run.first) +
                                            " is gone, which the guest at the target needs")
          .on(Side::kSource);
    }
    from = into;
  } else {
    from = region.mapped.data() + run.first * kPageSize;
  }
  for (std::uint64_t page = run.first; page < run.end(); ++page, from += kPageSize) {
    const bool zero = is_zero_page(from);
    const std::uint64_t hash =
        zero ? context_.digest.zero_hash() : context_.digest.hash({from, kPageSize});
    if (zero) {
      encoder_.add_zeros(page, 1);
      ++counts_.zero;
    } else {
      encoder_.add_raw(page, hash);
      ++counts_.raw;
      const bool follows =
          !content_.empty() &&
          static_cast<const std::byte*>(content_.back().iov_base) + content_.back().iov_len == from;
      if (follows) {
        content_.back().iov_len += kPageSize;
      } else {
        content_.push_back({const_cast<std::byte*>(from), kPageSize});
      }
    }
    // What was sent first stands. A page that is demanded while it is pushed goes twice, by two
    // threads; and a demand that is late may come when the page was given back to the host already.
    std::uint64_t none = wire::PageDigest::kVoid;
    std::atomic_ref(entry.hashes[page])
        .compare_exchange_strong(none, hash, std::memory_order_relaxed);
  }
  return {};
}

SentCounts PageSender::take_counts() {
  counts_.wire_bytes = channel_.sent_bytes() - wire_before_;
  wire_before_ = channel_.sent_bytes();
  return std::exchange(counts_, {});
}

}  // namespace migrate::postcopy
