// Mapped restore: pages that lie in an image's files as they are, mapped from there, private to the
// guest, so that guests of one image share them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "checkpoint/eager_fill.hpp"
#include "checkpoint/image_chain.hpp"
#include "migrate/memory.hpp"

namespace migrate::checkpoint {

/// A run of pages in memory and in a file. Pure.
struct MappableRun {
  const ImageFile* file = nullptr;
  std::uint64_t at = 0;  ///< In the file.
  std::uint16_t region = 0;
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

/// Finds runs in pages that are given in order, region by region.
class RunFinder {
 public:
  /// `found` are the pages of `region` from `first` on.
  void add(std::uint16_t region, std::uint64_t first, std::span<const FoundPage> found);
  /// The `runs_max` longest, in order of memory; none shorter than `pages_min`.
  [[nodiscard]] std::vector<MappableRun> take(std::size_t runs_max, std::uint64_t pages_min);

 private:
  std::vector<MappableRun> runs_;
};

struct MappedPlan {
  std::vector<MappableRun> runs;
  std::vector<PagesPart> rest;  ///< To be read; zero pages among them.
  std::uint64_t pages = 0;      ///< Of the runs.
};

/// Whether memory can be mapped over: kUnsupported, with a remedy, where it is huge pages, shared
/// with others, or another process's.
Status check_mappable(PageSink& pages, std::span<const Region> regions);
/// What to map, so that the process stays within half of vm.max_map_count mappings. kCancelled once
/// `stop` is set.
Result<MappedPlan> plan_mapping(const ImageChain& chain, const std::atomic<bool>& stop);
/// Maps the runs over the guest's memory. The files may go then.
Status map_runs(const ImageChain& chain, PageSink& pages, std::span<const MappableRun> runs);

}  // namespace migrate::checkpoint
