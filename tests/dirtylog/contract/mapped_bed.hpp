// MappedBed: a bed on memory that is mapped in this process.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "migrate/trackers.hpp"
#include "tests/dirtylog/contract/bed.hpp"
#include "tests/dirtylog/contract/thread_writer.hpp"

namespace migrate::testing {

/// Mapped regions as a guest's memory.
class MappedPages final : public PageSource {
 public:
  explicit MappedPages(std::vector<MappedRegion> regions) : mapped_(std::move(regions)) {}
  [[nodiscard]] std::byte* at(GuestPage page) const;

  Result<std::vector<Region>> regions() override;
  Result<ReadOutcome> read(const RegionId& region, PageRange range,
                           std::span<std::byte> into) override;
  std::span<const std::byte> mapped(const RegionId& region) override;
  Status holes(const RegionId&, PageBitmap&) override { return {}; }

 private:
  std::vector<MappedRegion> mapped_;
};

class MappedBed : public TrackerBed {
 public:
  /// All of `regions` but the first `skip` are areas. The memory stays the caller's.
  explicit MappedBed(const std::vector<MappedRegion>& regions, std::size_t skip = 0);

  /// Marks of what this process writes, from now on.
  std::shared_ptr<SoftwareBitmap> mark_own_writes();
  void track_with(std::shared_ptr<DirtyTracker> tracker) { tracker_ = std::move(tracker); }
  void track_by_content();
  /// See TrackerBed::granularity().
  void report_by(std::uint64_t granularity) { granularity_ = granularity; }
  /// Threads that write by stores, read(2) and process_vm_writev(2).
  void add_thread_writers(std::uint64_t seed);
  /// A thread that stores through another mapping of the areas, at `addresses`.
  void add_alias_writer(std::span<std::byte* const> addresses, std::uint64_t seed);

  PageSource& pages() override { return hashed_ ? *hashed_ : memory_; }
  Result<ReadOutcome> truth(const RegionId& region, PageRange range,
                            std::span<std::byte> into) override {
    return memory_.read(region, range, into);
  }
  [[nodiscard]] std::span<const PageRange> areas() const override { return areas_; }
  [[nodiscard]] std::uint64_t granularity() const override { return granularity_; }
  [[nodiscard]] bool peeks() const override { return hashed_ == nullptr; }
  using TrackerBed::touch;
  void touch(PageRange pages, std::uint64_t stride) override;
  void put(PageRange pages, std::uint64_t value) override;
  [[nodiscard]] std::span<const std::unique_ptr<Writer>> writers() const override {
    return writers_;
  }
  void for_each_logged(PageRange pages,
                       const std::function<void(const LoggedWord&)>& f) const override;

 protected:
  std::vector<std::unique_ptr<Writer>> writers_;

 private:
  void add_writer(std::string_view name, std::vector<PlacedArea> areas, PutAll put,
                  std::uint64_t seed);
  std::uint64_t& touch_word(GuestPage page);

  MappedPages memory_;
  std::vector<PlacedArea> placed_;
  std::vector<PageRange> areas_;
  std::unique_ptr<PageSource> hashed_;  ///< What the content hash has memory read through.
  std::shared_ptr<SoftwareBitmap> marks_;
  std::uint64_t granularity_ = 1;
  std::vector<const ThreadWriter*> logs_;
};

}  // namespace migrate::testing
