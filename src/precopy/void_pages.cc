#include "precopy/void_pages.hpp"

#include <algorithm>

namespace migrate::precopy {

void make_void(PageLedger& ledger, const PageBitmap& set) {
  set.for_each_run([&](const RegionId& region, PageRange run) {
    PageLedger::Entry* entry = ledger.find(region);
    if (entry == nullptr || !entry->region.range.contains(run)) return;
    const auto first =
        entry->hashes.begin() + static_cast<std::ptrdiff_t>(run.first - entry->region.range.first);
    std::fill_n(first, run.count, wire::PageDigest::kVoid);
  });
}

std::uint64_t take_void(PageLedger& ledger, const wire::PageDigest& digest, const PageBitmap& set) {
  std::uint64_t lost = 0;
  set.for_each_run([&](const RegionId& region, PageRange run) {
    const PageLedger::Entry* entry = ledger.find(region);
    if (entry == nullptr || !entry->region.range.contains(run)) return;
    const std::uint64_t first = run.first - entry->region.range.first;
    for (std::uint64_t page = first; page < first + run.count; ++page) {
      lost += digest.mix(wire::RegionHandle{entry->handle}, page, entry->hashes[page]);
    }
  });
  make_void(ledger, set);
  return lost;
}

std::uint64_t digest_of(const PageLedger& ledger, const wire::PageDigest& digest) {
  std::uint64_t sum = 0;
  for (const auto& entry : ledger.entries()) {
    for (std::uint64_t page = 0; page < entry->hashes.size(); ++page) {
      sum += digest.mix(wire::RegionHandle{entry->handle}, page, entry->hashes[page]);
    }
  }
  return sum;
}

std::uint64_t count_void(const PageLedger::Entry& entry) {
  return static_cast<std::uint64_t>(
      std::count(entry.hashes.begin(), entry.hashes.end(), wire::PageDigest::kVoid));
}

}  // namespace migrate::precopy
