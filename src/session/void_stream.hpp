// Void pages on the wire: a set of pages as VOID records, and back.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "transport/record_channel.hpp"
#include "wire/messages.hpp"

namespace migrate::session {

/// The VOID records of `set`, whose regions `ledger` has; VOID_END is left to the caller.
Status send_void(RecordChannel& control, const PageBitmap& set, PageLedger& ledger,
                 nanoseconds idle_max);

/// The same as INSTALLED records.
Status send_installed(RecordChannel& control, const PageBitmap& set, PageLedger& ledger,
                      nanoseconds idle_max);

/// Takes VOID records in their order.
class VoidSet {
 public:
  VoidSet() = default;
  explicit VoidSet(std::span<const Region> regions) : set_(regions) {}

  /// kProtocol for pages that are not in order, or lie outside their region.
  Status take(const wire::Void& pages, PageLedger& ledger);
  /// kProtocol when not all of them came.
  [[nodiscard]] Status check(const wire::VoidEnd& end) const;
  [[nodiscard]] const PageBitmap& set() const { return set_; }

 private:
  PageBitmap set_;
  std::pair<std::uint32_t, std::uint64_t> next_;  // Handle and word: VOID ascends.
  std::uint64_t pages_ = 0;
};

}  // namespace migrate::session
