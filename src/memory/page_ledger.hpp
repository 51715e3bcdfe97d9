// PageLedger: which regions a migration has, under which handles, and the hash of every page as the
// target has it (last sent on one side, received on the other).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Regions are added and removed by the coordinator while no lane works. Lanes read and write
/// hashes concurrently, each page by one lane at a time; nothing here is locked.
///
/// Costs 8 bytes a page. Handles ascend and are never used again in a session.
class PageLedger {
 public:
  struct Entry {
    std::uint32_t handle = 0;
    Region region;
    std::vector<std::uint64_t> hashes;  ///< By page of the region.
  };

  /// `zero_hash`: the hash of a page of zeros; fresh memory reads as zero, so every page begins so.
  explicit PageLedger(std::uint64_t zero_hash) : zero_hash_(zero_hash) {}

  /// Adds a region; kProtocol when the handle does not ascend or the region overlaps another one,
  /// kNoMemory when the hashes of its pages do not fit.
  Status add(std::uint32_t handle, const Region& region);
  /// kProtocol for an unknown handle.
  Status remove(std::uint32_t handle);

  /// nullptr for an unknown one. Pointers stay valid until the entry is removed.
  [[nodiscard]] Entry* find(std::uint32_t handle);
  [[nodiscard]] Entry* find(const RegionId& region);
  [[nodiscard]] const std::vector<std::unique_ptr<Entry>>& entries() const { return entries_; }

  [[nodiscard]] std::uint64_t zero_hash() const { return zero_hash_; }
  [[nodiscard]] std::uint64_t pages() const;
  [[nodiscard]] std::vector<Region> regions() const;
  [[nodiscard]] std::uint32_t next_handle() const { return next_handle_; }

 private:
  std::uint64_t zero_hash_;
  std::uint32_t next_handle_ = 0;
  std::vector<std::unique_ptr<Entry>> entries_;  // In order of handles.
};

/// "page 17 of region 0:1.0", for messages; `page` counts from the region's first.
[[nodiscard]] std::string page_text(const PageLedger::Entry& entry, std::uint64_t page);

}  // namespace migrate
