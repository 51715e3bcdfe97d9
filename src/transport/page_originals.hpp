// PageOriginals: where the target has a page of some content already, so that a copy of it need not
// be sent.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "wire/pages.hpp"

namespace migrate {

/// A bounded table from content hash to page; what collides is forgotten. It may be wrong in any
/// way (the page has changed since): whoever asks checks with the ledger and with the bytes. Any
/// thread.
class PageOriginals {
 public:
  /// For a guest of so many pages; 8 bytes for each, at most 8 MiB. 0: nothing is kept.
  explicit PageOriginals(std::uint64_t pages);

  void note(std::uint64_t hash, const wire::PageReference& page);
  [[nodiscard]] std::optional<wire::PageReference> find(std::uint64_t hash) const;

 private:
  // Handle (16 bits) and page (48 bits) plus one in one word, so that no lock is needed. Regions
  // beyond the 65535th are not kept.
  std::vector<std::atomic<std::uint64_t>> slots_;
};

}  // namespace migrate
