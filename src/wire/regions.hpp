// RegionTable: what the handles of a session stand for. Both sides keep one, changed the same way.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "migrate/memory.hpp"
#include "migrate/result.hpp"
#include "wire/ids.hpp"
#include "wire/messages.hpp"

namespace migrate::wire {

/// Not synchronised; references from find() and entries() last until the next change.
class RegionTable {
 public:
  struct Entry {
    RegionHandle handle;
    Region region;
  };

  RegionTable() = default;

  /// The regions of HELLO: handles 0, 1, 2, ... kProtocol when two share an id or pages.
  Status start(std::span<const Region> regions);

  /// The record for going to `regions` from what is there now; apply() it here too. More than
  /// kRegionsMax changes take several: call again after apply() until the record is empty.
  [[nodiscard]] Regions difference(std::span<const Region> regions) const;

  /// Takes removed ones away, then adds. kProtocol (nothing changed) for an unknown handle, a
  /// handle that is not the next, or regions that share an id or pages with others.
  Status apply(const Regions& change);

  /// nullptr when there is none (any more).
  [[nodiscard]] const Region* find(RegionHandle handle) const;
  /// In the order of handles.
  [[nodiscard]] std::span<const Entry> entries() const { return entries_; }
  [[nodiscard]] std::uint64_t total_pages() const;

 private:
  std::vector<Entry> entries_;
  std::uint32_t next_handle_ = 0;
};

/// What `change` means for a PageSink, given the table before it is applied.
[[nodiscard]] RegionDelta to_delta(const RegionTable& before, const Regions& change);

}  // namespace migrate::wire
