// A VM's memory slots as the engine's PageSource and PageSink: a slot is a region.
#pragma once

#include <span>
#include <vector>

#include "adapters/kvm/memory_release.hpp"
#include "migrate/kvm_slot.hpp"
#include "migrate/memory.hpp"

namespace migrate::kvm {

/// The slots, found by region. Does not change after construction; any thread.
class SlotTable {
 public:
  SlotTable() = default;
  explicit SlotTable(std::vector<KvmMemorySlot> slots) : slots_(std::move(slots)) {}

  [[nodiscard]] const KvmMemorySlot* find(const RegionId& region) const;
  [[nodiscard]] std::vector<Region> regions() const;
  /// The memory of `range`; kInvalidArgument when it is not in the region.
  [[nodiscard]] Result<std::span<std::byte>> memory(const RegionId& region, PageRange range) const;
  [[nodiscard]] std::span<std::byte> whole(const RegionId& region) const;

 private:
  std::vector<KvmMemorySlot> slots_;
};

class KvmPageSource final : public PageSource {
 public:
  explicit KvmPageSource(std::vector<KvmMemorySlot> slots) : table_(std::move(slots)) {}

  Result<std::vector<Region>> regions() override { return table_.regions(); }
  Result<ReadOutcome> read(const RegionId& region, PageRange range,
                           std::span<std::byte> into) override;
  std::span<const std::byte> mapped(const RegionId& region) override;
  Status holes(const RegionId& region, PageBitmap& holes) override;
  /// Gives the pages' memory back to the host; their content is lost. One thread at a time.
  Status release(const RegionId& region, PageRange range);

 private:
  SlotTable table_;
  MemoryRelease release_;
};

class KvmPageSink final : public PageSink {
 public:
  KvmPageSink() = default;
  void use(std::vector<KvmMemorySlot> slots) { table_ = SlotTable(std::move(slots)); }

  /// A VM's slots are those it was built with; anything else is kUnsupported.
  Status update_regions(const RegionDelta& delta) override;
  Status write(const RegionId& region, PageRange range, std::span<const std::byte> bytes) override;
  Status zero(const RegionId& region, PageRange range) override;
  Status read(const RegionId& region, PageRange range, std::span<std::byte> into) override;
  std::span<std::byte> mapped(const RegionId& region) override { return table_.whole(region); }

 private:
  SlotTable table_;
};

}  // namespace migrate::kvm
