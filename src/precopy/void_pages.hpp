// Void pages: of which nobody knows what the target has, because the link was lost while they were
// on their way. See "After a lost link" in docs/wire-format.md.
#pragma once

#include <cstdint>

#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "wire/digest.hpp"

namespace migrate::precopy {

/// Makes the pages of `set` void in `ledger`; regions that only one of them has are left out.
void make_void(PageLedger& ledger, const PageBitmap& set);

/// The same, and gives what the digest of `ledger` loses by it: about 12 ns a page of `set`.
[[nodiscard]] std::uint64_t take_void(PageLedger& ledger, const wire::PageDigest& digest,
                                      const PageBitmap& set);

/// The digest of all of `ledger`, void pages counting nothing: about 12 ns a page.
[[nodiscard]] std::uint64_t digest_of(const PageLedger& ledger, const wire::PageDigest& digest);

[[nodiscard]] std::uint64_t count_void(const PageLedger::Entry& entry);

}  // namespace migrate::precopy
