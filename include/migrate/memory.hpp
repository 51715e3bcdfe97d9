// Guest memory: what its parts are called, sets of pages, and how an adapter gives and takes them.
//
// A guest has one or more address spaces (one for a VM: guest physical memory; one a process for a
// container). An address space has regions: contiguous ranges of pages. Regions may be far apart,
// may live in another process, and may come and go while the guest runs.
#pragma once

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "migrate/result.hpp"

namespace migrate {

/// Bytes in a guest page. HELLO carries it, and a peer with another size is refused.
inline constexpr std::size_t kPageSize = 4096;

/// Number of a page in its address space: guest physical (or virtual) address / kPageSize.
struct GuestPage {
  std::uint64_t number = 0;
  friend auto operator<=>(const GuestPage&, const GuestPage&) = default;
  friend GuestPage operator+(GuestPage page, std::uint64_t count) { return {page.number + count}; }
  friend std::uint64_t operator-(GuestPage a, GuestPage b) { return a.number - b.number; }
};

/// An address as the guest sees it.
struct GuestAddr {
  std::uint64_t value = 0;
  friend auto operator<=>(const GuestAddr&, const GuestAddr&) = default;
  [[nodiscard]] GuestPage page() const { return {value / kPageSize}; }
};

/// `count` pages from `first` on.
struct PageRange {
  GuestPage first;
  std::uint64_t count = 0;
  friend bool operator==(const PageRange&, const PageRange&) = default;
  [[nodiscard]] GuestPage end() const { return first + count; }
  [[nodiscard]] bool empty() const { return count == 0; }
  [[nodiscard]] bool contains(GuestPage page) const { return page >= first && page < end(); }
  [[nodiscard]] bool contains(const PageRange& other) const {
    return other.first >= first && other.first - first <= count &&
           other.count <= count - (other.first - first);
  }
  [[nodiscard]] std::uint64_t bytes() const { return count * kPageSize; }
};

/// Names a region for the length of one migration. The adapter gives `id`, unique in its address
/// space; a region whose content or place is not the former one's gets a new `generation`.
struct RegionId {
  std::uint32_t space = 0;  ///< Address space, numbered by the adapter from 0.
  std::uint32_t id = 0;
  std::uint32_t generation = 0;
  friend auto operator<=>(const RegionId&, const RegionId&) = default;
};
[[nodiscard]] std::string to_text(const RegionId& region);

/// What lies under a region at this host; the peer may back its own otherwise.
enum class Backing : std::uint8_t {
  kUnknown = 0,
  kAnonymous = 1,
  kMemfd = 2,
  kHugetlb = 3,
  kFile = 4
};

struct Region {
  RegionId id;
  PageRange range;
  Backing backing = Backing::kUnknown;
  friend bool operator==(const Region&, const Region&) = default;
};

/// Regions that came and went since the former look. A changed region is one of each.
struct RegionDelta {
  std::vector<Region> added;
  std::vector<RegionId> removed;
  [[nodiscard]] bool empty() const { return added.empty() && removed.empty(); }
};

/// A set of guest pages: one bit a page of each of its regions. The only bitmap in the library.
///
/// Bit i of a segment stands for page `range.first + i`; bits past the last page are always clear.
/// Word order and bit order are KVM's dirty log's, so a segment can be handed to the kernel as is.
/// Not synchronised: one thread writes it, or many read it.
class PageBitmap {
 public:
  struct Segment {
    Region region;
    std::vector<std::uint64_t> words;  ///< ceil(range.count / 64), little-endian bit order.
  };

  PageBitmap() = default;
  /// All bits clear. Regions must have distinct ids.
  explicit PageBitmap(std::span<const Region> regions);

  /// Takes on the layout of `regions`: bits of regions that stay are kept, those of new regions
  /// are set to `value_of_new`, those of regions that are gone are dropped.
  void reshape(std::span<const Region> regions, bool value_of_new);

  [[nodiscard]] std::span<Segment> segments() { return segments_; }
  [[nodiscard]] std::span<const Segment> segments() const { return segments_; }
  [[nodiscard]] std::vector<Region> regions() const;
  /// The segment of `region`, or nullptr.
  [[nodiscard]] Segment* find(const RegionId& region);
  [[nodiscard]] const Segment* find(const RegionId& region) const;

  /// Pages must lie in the region; a region this set does not have is a programmer error.
  void set(const RegionId& region, GuestPage page);
  void set(const RegionId& region, PageRange range);
  void clear(const RegionId& region, PageRange range);
  [[nodiscard]] bool test(const RegionId& region, GuestPage page) const;
  void set_all();
  void clear_all();

  [[nodiscard]] std::uint64_t count() const;  ///< Pages in the set.
  [[nodiscard]] bool empty() const;
  [[nodiscard]] std::uint64_t capacity() const;  ///< Pages of all regions.

  /// Set algebra, region by region; regions missing in `other` count as empty there, regions
  /// missing here are ignored.
  void merge(const PageBitmap& other);
  void subtract(const PageBitmap& other);
  void intersect(const PageBitmap& other);

  /// Moves the pages of those regions that `to` has, too; the others stay.
  void hand_over(PageBitmap& to);

  /// Calls f(region id, run) for each maximal run of set pages, in order of regions and pages.
  void for_each_run(const std::function<void(const RegionId&, PageRange)>& f) const;

 private:
  std::vector<Segment> segments_;
};

/// Longest run of set bits of `segment` that begins at or after page `from` and ends by `limit`;
/// empty (at limit) when there is none.
[[nodiscard]] PageRange next_run(const PageBitmap::Segment& segment, GuestPage from,
                                 GuestPage limit);

/// What became of a read.
enum class ReadOutcome : std::uint8_t {
  kRead = 0,
  kGone = 1,  ///< The memory is no longer there (unmapped, process gone): not an error.
};

/// The memory of a guest, to be read. Implemented by an adapter.
///
/// `regions` and `holes` are called from the coordinator; `read` and `mapped` concurrently from
/// the lanes. Memory given by `mapped` must stay mapped until the migration's run() has returned.
class PageSource {
 public:
  virtual ~PageSource() = default;

  /// The regions as they are now. May differ from call to call.
  virtual Result<std::vector<Region>> regions() = 0;

  /// Copies the pages of `range` to `into` (range.bytes() bytes). May run beside guest writes; a
  /// torn page is sent again because its write is in the dirty log.
  virtual Result<ReadOutcome> read(const RegionId& region, PageRange range,
                                   std::span<std::byte> into) = 0;

  /// All of a region's memory where it is mapped in this process, else empty.
  virtual std::span<const std::byte> mapped(const RegionId& region) = 0;

  /// Adds to `holes` the pages of `region` that are known to read as zero, without touching them
  /// (reading a hole of a memfd would allocate it). Adding none is right where nothing is known.
  virtual Status holes(const RegionId& region, PageBitmap& holes) = 0;
};

/// The memory of a guest, to be filled. Implemented by an adapter. Fresh memory reads as zero.
///
/// `update_regions` is called from the coordinator while no lane works; the rest concurrently from
/// the lanes, never twice for one page at a time.
class PageSink {
 public:
  virtual ~PageSink() = default;

  virtual Status update_regions(const RegionDelta& delta) = 0;
  virtual Status write(const RegionId& region, PageRange range,
                       std::span<const std::byte> bytes) = 0;
  /// Makes the pages read as zero, by the way that suits the backing (hole punch, discard, memset).
  virtual Status zero(const RegionId& region, PageRange range) = 0;
  virtual Status read(const RegionId& region, PageRange range, std::span<std::byte> into) = 0;
  /// All of a region's memory where it is mapped in this process, else empty.
  virtual std::span<std::byte> mapped(const RegionId& region) = 0;
};

}  // namespace migrate
