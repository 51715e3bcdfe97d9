// The content of a batch, entry by entry.
#pragma once

#include <cstddef>
#include <span>

#include "migrate/result.hpp"
#include "wire/pages.hpp"

namespace migrate::wire {

/// What one entry brings.
struct PageContent {
  PageEntry entry;
  /// kRaw: kPageSize bytes (none when raw pages were received in place). kDelta: what
  /// decode_delta() takes, not looked into yet. Else none.
  std::span<const std::byte> bytes;
  PageReference original;  ///< kDuplicate: the page to copy.
};

/// A batch's content, all lengths checked; refers to the table and the bytes it was made from.
///
///   MIGRATE_ASSIGN(auto content, decode_content(table, raw, patches));
///   for (PageContent page; content.next(page);) ...
class BatchContent {
 public:
  /// The next entry in table order; false after the last.
  [[nodiscard]] bool next(PageContent& page);

 private:
  friend Result<BatchContent> decode_content(const PageTableView& table,
                                             std::span<const std::byte> raw,
                                             std::span<const std::byte> patches);
  BatchContent(const PageTableView& table, std::span<const std::byte> raw,
               std::span<const std::byte> patches)
      : table_(table), raw_(raw), patches_(patches) {}

  PageTableView table_;
  std::span<const std::byte> raw_;      // What next() has not given yet.
  std::span<const std::byte> patches_;  // Likewise.
  std::size_t index_ = 0;
};

/// Third step of reading a batch, after unpacking: `raw` is the content's first table.raw_bytes()
/// bytes, or empty when they were received in place; `patches` all the rest. Checks that patches
/// are where and as long as the table says, and that no duplicate is of a page in this batch. That
/// the page it names exists and was not sent in this round is left to the caller, and so are the
/// hashes. kIntegrity: content has no checksum of its own.
[[nodiscard]] Result<BatchContent> decode_content(const PageTableView& table,
                                                  std::span<const std::byte> raw,
                                                  std::span<const std::byte> patches);

}  // namespace migrate::wire
