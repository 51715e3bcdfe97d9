// Eager restore: an image's pages into memory that nobody uses yet, by several threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "checkpoint/image_chain.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// Pages of one region, at most kPagesPerIndex.
struct PagesPart {
  std::uint16_t region = 0;
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};
/// All of the regions, a part of the index each.
[[nodiscard]] std::vector<PagesPart> all_parts(std::span<const Region> regions);

struct EagerFigures {
  std::uint64_t digest = 0;  ///< Sum over all pages of the parts, by their hashes as found.
  std::uint64_t zero = 0;
  std::uint64_t filled = 0;  ///< Pages whose content was read.
  std::uint64_t file_bytes = 0;
  std::chrono::nanoseconds cpu{0};
};

struct EagerContext {
  std::shared_ptr<const ImageChain> chain;
  PageSink& pages;
  unsigned lanes;
  const std::atomic<bool>& stop;  ///< Set by any thread: kCancelled soon after.
  /// Called now and then, from the caller's thread, with pages that are done.
  std::function<void(std::uint64_t pages)> on_progress;
};

/// Every page's hash is checked. The threads have ended when this returns.
Result<EagerFigures> fill_eagerly(const EagerContext& context, std::span<const PagesPart> parts);

/// Threads for `lanes` as asked for, 0: by processors.
[[nodiscard]] unsigned reading_threads(unsigned lanes);

}  // namespace migrate::checkpoint
