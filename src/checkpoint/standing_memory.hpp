// StandingMemory: the memory of a guest that stands, read where it lies, by several lanes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

class StandingMemory {
 public:
  /// `pages` are what is saved; its regions' places are their numbers in the image. Both must
  /// outlive this.
  StandingMemory(PageSource& source, const PageBitmap& pages);

  /// Takes a page; its content is the callee's during the call.
  using Add = std::function<Status(std::uint16_t region, std::uint64_t page, const std::byte*)>;
  /// Saves pages beside others that do the same, until none are left. `add` fails when all is to
  /// end.
  Status save(const Add& add);
  [[nodiscard]] std::uint64_t saved() const { return saved_.load(std::memory_order_relaxed); }

 private:
  Status save_chunk(std::size_t region, PageRange range, std::vector<std::byte>& staging,
                    const Add& add);

  PageSource& source_;
  const PageBitmap& pages_;
  std::vector<std::span<const std::byte>> mapped_;  ///< By region; empty where it is not.
  std::vector<std::uint64_t> chunks_before_;        ///< Of earlier regions; then of all.
  std::atomic<std::uint64_t> cursor_{0};
  std::atomic<std::uint64_t> saved_{0};
};

}  // namespace migrate::checkpoint
