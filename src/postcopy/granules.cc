#include "postcopy/granules.hpp"

#include <set>
#include <string>

namespace migrate::postcopy {

Status check_granules(Granules granules, PageLedger& ledger) {
  std::set<std::uint32_t> seen;
  for (const auto& granule : granules) {
    const PageLedger::Entry* entry = ledger.find(granule.region.number);
    const bool divides = entry != nullptr && entry->region.range.count % granule.pages == 0;
    if (divides && seen.insert(granule.region.number).second) continue;
    return make_error(ErrorCode::kProtocol, "granules of " + std::to_string(granule.pages) +
                                                " pages do not fit region " +
                                                std::to_string(granule.region.number));
  }
  return {};
}

void widen(PageBitmap& pages, Granules granules, PageLedger& ledger) {
  for (const auto& granule : granules) {
    const PageLedger::Entry* entry = ledger.find(granule.region.number);
    const PageBitmap::Segment* segment = entry != nullptr ? pages.find(entry->region.id) : nullptr;
    if (segment == nullptr) continue;
    const GuestPage first = segment->region.range.first;
    const GuestPage end = segment->region.range.end();
    for (PageRange run = next_run(*segment, first, end); !run.empty();) {
      const GuestPage begin = first + (run.first - first) / granule.pages * granule.pages;
      pages.set(segment->region.id, PageRange{begin, granule.pages});
      run = next_run(*segment, begin + granule.pages, end);
    }
  }
}

}  // namespace migrate::postcopy
