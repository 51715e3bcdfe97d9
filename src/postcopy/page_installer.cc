#include "postcopy/page_installer.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "wire/limits.hpp"

namespace migrate::postcopy {
namespace {

/// Installed by one call: a page that the guest waits for is not kept waiting by more than this on
/// another lane, some 30 us of copying.
constexpr std::uint64_t kRunPagesMax = 64;
/// Of private memory all zeros are the kernel's one page of them.
constexpr std::uint64_t kZeroRunPagesMax = 512;

/// Entries ascend and do not overlap: only where they meet, or do not, can a huge page be cut.
Status check_whole(const wire::PageTableView& table, const LazyRange& range) {
  const auto cut_at = [&](std::uint64_t page) {
    return make_error(ErrorCode::kProtocol,
                      "a part of a huge page came, up to " + page_text(*range.entry, page))
        .advise("run the same version of migrate on both hosts");
  };
  std::uint64_t next = 0;
  for (std::size_t i = 0; i < table.size(); ++i) {
    const wire::PageEntry entry = table[i];
    if (entry.first != next && (next % range.granule != 0 || entry.first % range.granule != 0)) {
      return cut_at(next);
    }
    next = entry.first + entry.count;
  }
  if (next % range.granule != 0) return cut_at(next);
  return {};
}

/// What comes although nobody said that it would is lost to the source's books.
Status check_missing(const wire::PageTableView& table, const LazyRange& range) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    const wire::PageEntry entry = table[i];
    for (std::uint64_t page = entry.first; page < entry.first + entry.count; ++page) {
      if (range.states.once.test(page)) continue;
      return make_error(ErrorCode::kProtocol,
                        page_text(*range.entry, page) + " came, which was not to follow");
    }
  }
  return {};
}

}  // namespace

PageInstaller::PageInstaller(Context context)
    : context_(context), staging_(wire::kBatchContentBytesMax) {
  hashes_.reserve(wire::kGranulePagesMax);
  contents_.reserve(wire::kGranulePagesMax);
}

Result<PageInstaller::Outcome> PageInstaller::apply(RecordChannel& channel,
                                                    const wire::PageTableView& table,
                                                    LazyRange& range, nanoseconds idle_max) {
  MIGRATE_TRY(check_missing(table, range));
  if (range.granule > 1) MIGRATE_TRY(check_whole(table, range));
  iovec content = {staging_.data(), table.raw_bytes()};
  if (content.iov_len > 0) MIGRATE_TRY(channel.receive_content({&content, 1}, idle_max));
  again_.clear();
  complete_ = false;
  run_ = {};
  const Status installed =
      range.granule > 1 ? install_granules(table, range) : install_pages(table, range);
  if (!installed) {
    if (run_.count > 0) context_.pager.unclaim(range, run_.first, run_.count);
    return installed.error();
  }
  return Outcome{complete_, again_};
}

Status PageInstaller::install_pages(const wire::PageTableView& table, LazyRange& range) {
  const std::byte* content = staging_.data();
  for (std::size_t i = 0; i < table.size(); ++i) {
    const wire::PageEntry entry = table[i];
    if (entry.encoding == wire::PageEncoding::kZeros) {
      MIGRATE_TRY(add_zeros(range, entry));
    } else {
      MIGRATE_TRY(add_raw(range, entry, content));
      content += kPageSize;
    }
  }
  return flush(range);
}

Status PageInstaller::add_raw(LazyRange& range, const wire::PageEntry& page,
                              const std::byte* content) {
  if (!range.states.wanted.test(page.first)) {
    context_.counts.twice.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  if (context_.digest.hash({content, kPageSize}) != page.hash) return refuse(range, page.first);
  if (run_.count > 0 && (run_.first + run_.count != page.first || run_.count == kRunPagesMax)) {
    MIGRATE_TRY(flush(range));
  }
  if (!context_.pager.claim(range, page.first)) {
    context_.counts.twice.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  if (run_.count == 0) {
    run_ = {page.first, 0, content};
    hashes_.clear();
  }
  ++run_.count;
  hashes_.push_back(page.hash);
  return {};
}

Status PageInstaller::add_zeros(LazyRange& range, const wire::PageEntry& pages) {
  MIGRATE_TRY(flush(range));
  const std::uint64_t end = pages.first + pages.count;
  const std::uint64_t most = range.backing.shared ? kRunPagesMax : kZeroRunPagesMax;
  for (std::uint64_t page = pages.first; page < end;) {
    const std::uint64_t limit = std::min(end, page + most);
    run_ = {page, 0, nullptr};
    while (page < limit && context_.pager.claim(range, page)) ++page;
    run_.count = page - run_.first;
    if (page < limit) {  // Here the run is interrupted by a page that came before.
      context_.counts.twice.fetch_add(1, std::memory_order_relaxed);
      ++page;
    }
    hashes_.assign(run_.count, context_.digest.zero_hash());
    MIGRATE_TRY(flush(range));
  }
  return {};
}

Status PageInstaller::flush(LazyRange& range) {
  const Run run = std::exchange(run_, {});
  return run.count > 0 ? fill(range, run) : Status();
}

Status PageInstaller::install_granules(const wire::PageTableView& table, LazyRange& range) {
  const std::byte* content = staging_.data();
  hashes_.clear();
  contents_.clear();
  for (std::size_t i = 0; i < table.size(); ++i) {
    const wire::PageEntry entry = table[i];
    const bool zeros = entry.encoding == wire::PageEncoding::kZeros;
    for (std::uint64_t page = entry.first; page < entry.first + entry.count; ++page) {
      hashes_.push_back(zeros ? context_.digest.zero_hash() : entry.hash);
      contents_.push_back(zeros ? nullptr : content);
      if (hashes_.size() < range.granule) continue;
      MIGRATE_TRY(finish_granule(range, page + 1 - range.granule));
      hashes_.clear();
      contents_.clear();
    }
    if (!zeros) content += kPageSize;
  }
  return {};
}

Status PageInstaller::finish_granule(LazyRange& range, std::uint64_t first) {
  if (!range.states.wanted.test(first)) {
    context_.counts.twice.fetch_add(range.granule, std::memory_order_relaxed);
    return {};
  }
  std::uint64_t raw = 0;
  for (std::size_t i = 0; i < contents_.size(); ++i) {
    if (contents_[i] == nullptr) continue;
    ++raw;
    if (context_.digest.hash({contents_[i], kPageSize}) != hashes_[i]) return refuse(range, first);
  }
  Run run{first, range.granule, nullptr};
  if (raw == range.granule) {
    run.content = contents_[0];  // One after the other, as they came.
  } else if (raw > 0) {
    granule_.assign(range.granule * kPageSize, std::byte{0});
    for (std::size_t i = 0; i < contents_.size(); ++i) {
      if (contents_[i] == nullptr) continue;
      std::memcpy(granule_.data() + i * kPageSize, contents_[i], kPageSize);
    }
    run.content = granule_.data();
  }
  if (!context_.pager.claim(range, first)) {
    context_.counts.twice.fetch_add(range.granule, std::memory_order_relaxed);
    return {};
  }
  return fill(range, run);
}

Status PageInstaller::fill(LazyRange& range, const Run& run) {
  for (std::uint64_t done = 0; done < run.count;) {
    const std::uint64_t first = run.first + done;
    const std::uint64_t count = run.count - done;
    const auto filled =
        run.content != nullptr
            ? context_.memory.copy(range, first, count, run.content + done * kPageSize)
            : context_.memory.fill_with_zeros(range, first, count);
    const std::uint64_t pages = filled.bytes / kPageSize;
    if (pages > 0) {
      std::copy_n(hashes_.begin() + static_cast<std::ptrdiff_t>(done), pages,
                  range.entry->hashes.begin() + static_cast<std::ptrdiff_t>(first));
      context_.counts.arrived.fetch_add(pages, std::memory_order_relaxed);
      if (context_.pager.put_in_place(range, first, pages)) complete_ = true;
      done += pages;
    }
    if (filled.sys_errno == 0) continue;
    if (filled.sys_errno == EEXIST && context_.pager.given_up()) {
      done += range.granule;  // Somebody who waited has got zeros.
      continue;
    }
    context_.pager.unclaim(range, run.first + done, run.count - done);
    return filling_error(range, run.first + done, filled.sys_errno);
  }
  return {};
}

Status PageInstaller::refuse(LazyRange& range, std::uint64_t page) {
  if (!context_.pager.ask_again(range, page)) {
    return make_error(ErrorCode::kIntegrity,
                      page_text(*range.entry, page) +
                          " arrived with another content than was sent, again and again")
        .advise("check the network path and both hosts' memory");
  }
  context_.counts.refetched.fetch_add(range.granule, std::memory_order_relaxed);
  again_.push_back(
      {wire::RegionHandle{range.entry->handle}, page, static_cast<std::uint32_t>(range.granule)});
  return {};
}

}  // namespace migrate::postcopy
