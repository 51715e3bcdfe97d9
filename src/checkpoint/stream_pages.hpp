// StreamPages: pages as they come in a stream, and what the index makes of them at its end.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "checkpoint/image_chain.hpp"
#include "checkpoint/image_format.hpp"
#include "migrate/memory.hpp"
#include "wire/digest.hpp"

namespace migrate::checkpoint {

/// Memory has each page's latest copy until the index comes. 24 bytes a stored page, and 4 for each
/// page of a part of the index in which one is stored. Copies that were overwritten are kept, up to
/// 256 MiB: an index may name them. One thread's.
class StreamPages {
 public:
  StreamPages(const std::vector<Region>& regions, const wire::PageDigest& digest,
              const ImageStreamReader::Memory& memory);

  /// A stored page, its hash checked. In the order of the stream.
  Status store(std::uint16_t region, std::uint64_t page, const IndexEntry& entry,
               const std::byte* content);
  /// An INDEX block that check_block() has passed. Fills in pages that are others' equals.
  Status index(const BlockHead& head, std::span<const IndexEntry> entries);
  /// All index blocks have come: pages that are not what was stored last become what they are.
  /// kIntegrity unless the directory is that of these blocks, and of this memory.
  Status finish(const Directory& directory);

 private:
  using Page = std::array<std::byte, kPageSize>;
  using Number = std::uint32_t;  // In log_, from 1; 0 is none.
  using Latest = std::array<Number, kPagesPerIndex>;
  struct Place {
    std::uint16_t region = 0;
    std::uint64_t page = 0;
  };
  struct Stored {
    std::uint64_t place = 0;
    IndexEntry entry;
  };
  struct Change {
    std::uint64_t place = 0;
    Number from = 0;  // None: zeros.
  };

  static std::uint64_t packed(std::uint16_t region, std::uint64_t number) {
    return std::uint64_t{region} << 48 | number;
  }
  static Place place_of(std::uint64_t packed) {
    return {static_cast<std::uint16_t>(packed >> 48), packed & ((std::uint64_t{1} << 48) - 1)};
  }
  [[nodiscard]] const Stored& stored(Number number) const { return log_[number - 1]; }
  [[nodiscard]] Number latest(std::uint64_t place) const;
  /// kIntegrity unless a page with this hash is stored there.
  Result<Number> number_at(const IndexEntry& entry, std::uint64_t at) const;
  Status keep_older(Number number);
  Status settle(std::uint64_t place, Number held, const IndexEntry& entry, std::uint64_t at);
  Status copy(std::uint64_t to, Number from);
  Status zero_what_is_left(const Directory& directory);
  Status check_parts(const Directory& directory) const;
  Status apply_changes();

  const std::vector<Region>& regions_;
  const wire::PageDigest& digest_;
  const ImageStreamReader::Memory& memory_;
  std::deque<Stored> log_;  // By location: blocks come in the order of their offsets.
  std::unordered_map<std::uint64_t, std::unique_ptr<Latest>> latest_;  // By region and part.
  std::unordered_map<Number, std::unique_ptr<Page>> older_;
  std::unordered_map<std::uint64_t, Directory::Part> parts_;  // Seen, by region and part.
  // Of pages that are stored: these may be what others are copied from, so they change last.
  std::vector<Change> changes_;
  std::uint64_t sum_ = 0;
};

}  // namespace migrate::checkpoint
