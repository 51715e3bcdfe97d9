// What is in RAW and PACKED blocks: their tables, and pages out of zstd frames.
#pragma once

#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "checkpoint/image_format.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// The table of a RAW or PACKED block that check_block() has passed. `block` is aligned to 8 bytes.
[[nodiscard]] std::span<const TableEntry> table_of(const BlockHead& head,
                                                   std::span<const std::byte> block);
/// kIntegrity unless the entries are in ascending order and lie in a region of `pages` pages.
Status check_table(const BlockHead& head, std::span<const TableEntry> table, std::uint64_t pages);

/// Unpacks frames; one thread's.
class FrameUnpacker {
 public:
  /// kNoMemory.
  static Result<FrameUnpacker> create();
  /// Unpacks the payload of a PACKED block, which may be anything, to `into`, which has room for
  /// its count of pages. kIntegrity; then what is in `into` means nothing.
  Status unpack(const BlockHead& head, std::span<const std::byte> payload,
                std::span<std::byte> into);

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const noexcept { ZSTD_freeDCtx(context); }
  };
  std::unique_ptr<ZSTD_DCtx, Free> context_;
};

}  // namespace migrate::checkpoint
