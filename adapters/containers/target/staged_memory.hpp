// StagedMemory: the memory of a tree that is still to be, where the engine puts it: one memfd, so
// that another process can go on with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/fd.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// Where a region is staged.
struct StagedRegion {
  Region region;
  std::uint64_t offset = 0;   ///< In the memfd.
  std::byte* host = nullptr;  ///< Mapped here.
};

/// Threads as PageSink says. Address spaces are processes; page numbers are addresses / kPageSize.
class StagedMemory final : public PageSink {
 public:
  static Result<std::unique_ptr<StagedMemory>> create();
  ~StagedMemory() override;

  Status update_regions(const RegionDelta& delta) override;
  Status write(const RegionId& region, PageRange range, std::span<const std::byte> bytes) override;
  Status zero(const RegionId& region, PageRange range) override;
  Status read(const RegionId& region, PageRange range, std::span<std::byte> into) override;
  std::span<std::byte> mapped(const RegionId& region) override;

  /// Gives all memory back; the regions stay mapped, and read as zero.
  void drop_content() noexcept;
  /// In order of spaces and addresses.
  [[nodiscard]] std::vector<StagedRegion> regions() const;
  [[nodiscard]] int memfd() const { return memfd_.get(); }
  [[nodiscard]] std::uint64_t bytes() const { return next_offset_; }
  /// Where the byte at `offset` of the memfd is mapped; nullptr where it is not.
  [[nodiscard]] std::byte* at(std::uint64_t offset) const;

 private:
  /// A mapping of a part of the memfd, which many regions share: thousands of small ones are one
  /// mapping of the kernel's. Large ones are apart, because huge pages are advised for those.
  struct Arena {
    std::byte* base = nullptr;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::uint64_t used = 0;
    std::uint64_t regions = 0;
    bool huge = false;
  };

  explicit StagedMemory(Fd memfd) : memfd_(std::move(memfd)) {}
  Status check_new(const Region& region) const;
  Status add(const Region& region);
  Status remove(const RegionId& region);
  Result<Arena*> arena_for(std::uint64_t bytes, bool huge);
  Result<std::span<std::byte>> memory(const RegionId& region, PageRange range) const;

  Fd memfd_;
  std::uint64_t next_offset_ = 0;
  std::vector<std::unique_ptr<Arena>> arenas_;
  struct Place {
    PageRange range;
    Backing backing;
    Arena* arena;
    std::uint64_t offset;
    std::byte* host;
  };
  std::map<RegionId, Place> places_;
  /// By space and first page: what may not overlap.
  std::map<std::pair<std::uint32_t, std::uint64_t>, RegionId> order_;
};

}  // namespace migrate::containers
