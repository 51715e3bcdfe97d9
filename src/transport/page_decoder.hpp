// PageDecoder: a PAGES record on its way into the target's memory. A lane has one.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "transport/page_counts.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"
#include "wire/packing.hpp"
#include "wire/page_content.hpp"
#include "wire/pages.hpp"

namespace migrate {

/// One thread's. Does not allocate after the first batches.
class PageDecoder {
 public:
  struct Context {
    PageSink& pages;
    PageLedger& ledger;
    const wire::PageDigest& digest;
    /// Whether a page has come in this round. Any thread.
    std::function<bool(const wire::PageReference&)> came;
  };
  /// kNoMemory.
  static Result<PageDecoder> create(Context context);

  /// Takes the content of the batch off the channel, checks every page against its hash, puts it in
  /// place and enters it in the ledger. Where raw pages are neither packed nor in memory of another
  /// process they are received in place, so after an error memory is in between. kProtocol,
  /// kIntegrity, and what the channel and the memory say.
  Status apply(RecordChannel& channel, const wire::BatchHeader& batch,
               const wire::PageTableView& table, PageLedger::Entry& entry,
               std::chrono::nanoseconds idle_max);

  /// Since asked last.
  [[nodiscard]] PageCounts take_counts() { return std::exchange(counts_, {}); }
  [[nodiscard]] const PageCounts& counts() const { return counts_; }

 private:
  PageDecoder(Context context, wire::ZstdUnpacker unpacker)
      : context_(std::move(context)), unpacker_(std::move(unpacker)) {}

  struct Arrived {
    std::span<const std::byte> raw;  ///< Empty when they are in place already.
    std::span<const std::byte> patches;
    bool in_place = false;
  };
  Result<Arrived> receive_plain(RecordChannel& channel, const wire::BatchHeader& batch,
                                const wire::PageTableView& table, std::span<std::byte> mapped,
                                std::chrono::nanoseconds idle_max);
  Result<Arrived> receive_packed(RecordChannel& channel, const wire::BatchHeader& batch,
                                 const wire::PageTableView& table, std::span<std::byte> mapped,
                                 std::chrono::nanoseconds idle_max);
  Status settle(const wire::PageContent& page, PageLedger::Entry& entry,
                std::span<std::byte> mapped, bool in_place);
  Status settle_zeros(const wire::PageEntry& run, PageLedger::Entry& entry);
  Status settle_raw(const wire::PageContent& page, PageLedger::Entry& entry,
                    std::span<std::byte> mapped, bool in_place);
  Status settle_delta(const wire::PageContent& page, PageLedger::Entry& entry,
                      std::span<std::byte> mapped);
  Status settle_duplicate(const wire::PageContent& page, PageLedger::Entry& entry,
                          std::span<std::byte> mapped);
  /// Checks content against its hash and enters it.
  Status enter(const wire::PageEntry& page, PageLedger::Entry& entry, const std::byte* content);
  Status put(const wire::PageEntry& page, const PageLedger::Entry& entry,
             std::span<std::byte> mapped, const std::byte* content);
  void grow_staging();

  Context context_;
  wire::ZstdUnpacker unpacker_;
  std::vector<iovec> parts_;
  std::vector<std::byte> packed_;
  std::vector<std::byte>
      staging_;  // Unpacked content, and pages of memory that is not mapped here.
  std::array<std::byte, kPageSize> page_{};
  PageCounts counts_;
};

}  // namespace migrate
