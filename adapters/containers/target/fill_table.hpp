// FillTable: where the content of one process's missing memory is staged, kept right while the
// process changes its memory map. Pure.
#pragma once

#include <cstdint>

#include "adapters/containers/target/raw_array.hpp"

namespace migrate::containers {

/// Addresses [begin, end) of the process, page-aligned.
struct FillExtent {
  /// `source` of what has no content to come: filled already, or given up by the process. A page
  /// missing there reads as zero.
  static constexpr std::uint64_t kNothing = ~std::uint64_t{0};

  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t source = kNothing;  ///< Of `begin`, in the staging.
  bool wiped = false;               ///< A child begins with zeros there (MADV_WIPEONFORK).

  [[nodiscard]] bool has_content() const { return source != kNothing; }
  [[nodiscard]] std::uint64_t bytes() const { return end - begin; }
  /// The part [from, to), which it has.
  [[nodiscard]] FillExtent part(std::uint64_t from, std::uint64_t to) const {
    return {from, to, has_content() ? source + (from - begin) : kNothing, wiped};
  }
};

/// One thread. Methods that return bool are false for lack of memory, which leaves it as it was or
/// with content missing: unusable.
class FillTable {
 public:
  /// Behind all that were added before.
  [[nodiscard]] bool add(FillExtent extent);
  /// For a child of the process of `other`.
  [[nodiscard]] bool copy_from(const FillTable& other);

  /// The extent that has `address`; nullptr where none does: the page reads as zero.
  [[nodiscard]] const FillExtent* find(std::uint64_t address) const;
  /// The first content at or after `from`, at most `bytes_max` of it and not beyond the next
  /// multiple of that; one with begin == end when there is none.
  [[nodiscard]] FillExtent next_content(std::uint64_t from, std::uint64_t bytes_max) const;
  [[nodiscard]] std::uint64_t content_bytes() const { return content_bytes_; }

  /// Filled, or given up (MADV_DONTNEED).
  [[nodiscard]] bool empty_out(std::uint64_t begin, std::uint64_t end);
  /// No longer mapped.
  [[nodiscard]] bool unmap(std::uint64_t begin, std::uint64_t end);
  /// Moved (mremap).
  [[nodiscard]] bool move(std::uint64_t from, std::uint64_t to, std::uint64_t length);

 private:
  struct Range {
    std::uint64_t begin;
    std::uint64_t end;
  };
  [[nodiscard]] std::size_t first_ending_after(std::uint64_t address) const;
  [[nodiscard]] bool cut(std::uint64_t begin, std::uint64_t end, const FillExtent* with,
                         std::size_t count);
  [[nodiscard]] bool note_early(std::uint64_t begin, std::uint64_t end);

  RawArray<FillExtent> extents_;  // Ascending, not overlapping.
  std::uint64_t content_bytes_ = 0;
  // What was mapped over before the kernel told of its unmapping: threads that change the map send
  // their events one after the other, but only once they have let go of the map's lock, so that a
  // move to where something was just unmapped may be told first. That unmapping is not of what was
  // moved there.
  RawArray<Range> early_;
};

}  // namespace migrate::containers
