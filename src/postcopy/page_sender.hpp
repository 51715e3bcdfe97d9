// PageSender: reads pages of a guest that stands, hashes them and sends them as one record. A lane
// has one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"
#include "postcopy/push_order.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"
#include "wire/pages.hpp"

namespace migrate::postcopy {

/// Where a region's pages are, and in what units they go.
struct SourceRegion {
  PageLedger::Entry* entry = nullptr;
  std::uint32_t granule = 1;
  std::span<const std::byte> mapped;  ///< Empty where memory is only read().
};

struct SentCounts {
  std::uint64_t raw = 0, zero = 0;
  std::uint64_t wire_bytes = 0;
  nanoseconds cpu{0};
};

/// One thread's. Does not allocate after the first records.
class PageSender {
 public:
  struct Context {
    PageSource& pages;
    const wire::PageDigest& digest;
    nanoseconds idle_max;
    std::uint32_t round = 0;
  };
  PageSender(const Context& context, RecordChannel& channel);

  /// The pages of `runs` (ascending, 1 to kBatchEntriesMax together), each entered in the ledger.
  /// Content leaves straight from mapped memory. Two senders may send the same page at once.
  Status send(const SourceRegion& region, std::span<const PushOrder::Run> runs);
  /// Since asked last.
  [[nodiscard]] SentCounts take_counts();

 private:
  Status add(const SourceRegion& region, PushOrder::Run run, std::size_t staged);

  const Context context_;
  RecordChannel& channel_;
  wire::PagesEncoder encoder_;
  std::vector<std::byte> staging_;  // For memory that is not mapped.
  std::vector<iovec> content_;
  SentCounts counts_;
  std::uint64_t wire_before_ = 0;
};

}  // namespace migrate::postcopy
