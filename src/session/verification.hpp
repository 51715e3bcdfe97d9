// Checks of memory that do not trust the dirty log: the full digest and the sample.
#pragma once

#include <cstdint>
#include <functional>

#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"
#include "wire/digest.hpp"

namespace migrate::session {

/// Copies `range` of a region to `into`; false when it is gone.
using ReadPages = std::function<Result<bool>(const RegionId&, PageRange, std::span<std::byte>)>;

/// The whole-memory digest computed anew from memory. `skip`, when given, says which pages are
/// known to be holes (zero without looking).
Result<std::uint64_t> full_digest(const PageLedger& ledger, const wire::PageDigest& digest,
                                  const ReadPages& read, const PageBitmap* holes);

/// Adds to `changed`, which has the ledger's regions, the pages whose content has another hash than
/// the ledger.
Status find_changed(const PageLedger& ledger, const wire::PageDigest& digest, const ReadPages& read,
                    PageBitmap& changed);

/// Re-hashes pages at random until `stop` says so or `pages_max` are done; kIntegrity for a page
/// whose content is not what was last sent. The number looked at.
Result<std::uint64_t> sample_pages(const PageLedger& ledger, const wire::PageDigest& digest,
                                   const ReadPages& read, const PageBitmap* holes,
                                   std::uint64_t pages_max, const std::function<bool()>& stop);

}  // namespace migrate::session
