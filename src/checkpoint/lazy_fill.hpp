// LazyFill: an image's pages into memory that the guest may be waiting for, whoever brings them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "checkpoint/image_chain.hpp"
#include "checkpoint/reader_pool.hpp"
#include "postcopy/lazy_memory.hpp"
#include "postcopy/pager.hpp"

namespace migrate::checkpoint {

/// Pages that each has put in place.
struct LazyCounts {
  std::atomic<std::uint64_t> demand{0};
  std::atomic<std::uint64_t> prefetched{0};
  std::atomic<std::uint64_t> background{0};
};

/// Any thread.
class LazyFill {
 public:
  /// `on_complete` is called once, by any thread, when no page is missing any more.
  LazyFill(std::shared_ptr<const ImageChain> chain, std::unique_ptr<postcopy::LazyMemory> memory,
           std::function<void()> on_complete);

  [[nodiscard]] const ImageChain& chain() const { return readers_.chain(); }
  [[nodiscard]] ReaderPool& readers() { return readers_; }
  [[nodiscard]] const postcopy::LazyMemory& memory() const { return *memory_; }
  [[nodiscard]] postcopy::Pager& pager() { return pager_; }
  [[nodiscard]] LazyCounts& counts() { return counts_; }
  /// By its index in the image.
  [[nodiscard]] postcopy::LazyRange* range_of(std::uint16_t region) const {
    return by_region_[region];
  }

  /// Puts those of the pages (whole granules) in place that nobody has, and adds to `count_into`
  /// how many. `content` is theirs, checked; nullptr: zeros. kNoMemory, kIntegrity where somebody
  /// else has written.
  Status put(postcopy::LazyRange& range, std::uint64_t first, std::uint64_t count,
             const std::byte* content, std::atomic<std::uint64_t>& count_into);
  /// Those that nobody has are zeros, and need not be filled for that. The same.
  void leave_as_zeros(postcopy::LazyRange& range, std::uint64_t first, std::uint64_t count,
                      std::atomic<std::uint64_t>& count_into);
  /// Reads a whole granule into `room`, which has room for it, zeros included.
  Status read_granule(ImageReader& reader, const postcopy::LazyRange& range, std::uint64_t first,
                      std::byte* room);

 private:
  /// A run of pages that this caller is alone to bring.
  struct Claimed {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
  };
  Claimed claim_run(postcopy::LazyRange& range, std::uint64_t from, std::uint64_t end,
                    std::uint64_t pages_max);
  Status fill(postcopy::LazyRange& range, Claimed run, const std::byte* content,
              std::atomic<std::uint64_t>& count_into);

  ReaderPool readers_;
  std::unique_ptr<postcopy::LazyMemory> memory_;
  std::vector<postcopy::LazyRange*> by_region_;
  postcopy::Pager pager_;
  const std::function<void()> on_complete_;
  LazyCounts counts_;
};

}  // namespace migrate::checkpoint
