// PageInstaller: a PAGES record on its way into memory that the guest may be waiting for. A lane
// has one.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "migrate/result.hpp"
#include "postcopy/lazy_memory.hpp"
#include "postcopy/pager.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"
#include "wire/pages.hpp"

namespace migrate::postcopy {

/// Of all lanes.
struct InstallCounts {
  std::atomic<std::uint64_t> arrived{0};
  std::atomic<std::uint64_t> twice{0};
  std::atomic<std::uint64_t> refetched{0};
};

/// One thread's. Does not allocate after the first batches.
class PageInstaller {
 public:
  struct Context {
    const LazyMemory& memory;
    Pager& pager;
    const wire::PageDigest& digest;
    InstallCounts& counts;
  };
  /// kNoMemory by guarded().
  explicit PageInstaller(Context context);

  /// What a record left to do.
  struct Outcome {
    bool complete = false;                       ///< It brought the last page.
    std::span<const wire::Demand::Pages> again;  ///< To be demanded anew; until the next call.
  };
  /// Takes the content of the batch off the channel; what is still missing of it, and has its hash,
  /// is put in place. kProtocol for part of a huge page, kIntegrity for a page that has had another
  /// content too often, and what the channel and the kernel say.
  Result<Outcome> apply(RecordChannel& channel, const wire::PageTableView& table, LazyRange& range,
                        nanoseconds idle_max);

 private:
  /// Pages that follow each other, in memory and in what has come.
  struct Run {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    const std::byte* content = nullptr;  ///< nullptr: zeros.
  };
  Status install_pages(const wire::PageTableView& table, LazyRange& range);
  Status add_raw(LazyRange& range, const wire::PageEntry& page, const std::byte* content);
  Status add_zeros(LazyRange& range, const wire::PageEntry& pages);
  Status flush(LazyRange& range);
  Status install_granules(const wire::PageTableView& table, LazyRange& range);
  Status finish_granule(LazyRange& range, std::uint64_t first);
  /// Fills claimed memory and says so.
  Status fill(LazyRange& range, const Run& run);
  Status refuse(LazyRange& range, std::uint64_t page);

  Context context_;
  std::vector<std::byte> staging_;
  std::vector<std::uint64_t> hashes_;       // Of run_, or of the huge page at hand.
  Run run_;                                 // Claimed and not in place.
  std::vector<const std::byte*> contents_;  // Of the huge page at hand; nullptr: zeros.
  std::vector<std::byte> granule_;          // A huge page that did not come in one piece.
  std::vector<wire::Demand::Pages> again_;
  bool complete_ = false;
};

}  // namespace migrate::postcopy
