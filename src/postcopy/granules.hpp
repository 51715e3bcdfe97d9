// Units in which memory is filled lazily, where that is more than a page. Pure.
#pragma once

#include <span>

#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"
#include "wire/messages.hpp"

namespace migrate::postcopy {

using Granules = std::span<const wire::LazyTerms::Granule>;

/// kProtocol when they are of regions that `ledger` has not, of one twice, or do not divide one.
Status check_granules(Granules granules, PageLedger& ledger);

/// Adds to `pages` the rest of each granule that some of it is in.
void widen(PageBitmap& pages, Granules granules, PageLedger& ledger);

}  // namespace migrate::postcopy
