// Content codec 1: the content of a batch as one zstd frame. See docs/wire-format.md, "Codec 1".
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "migrate/result.hpp"
#include "wire/pages.hpp"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace migrate::wire {

/// Levels as zstd has them; negative ones are faster and pack less. Beyond 19 zstd wants windows
/// that a batch does not have.
inline constexpr int kZstdLevelMin = -7;
inline constexpr int kZstdLevelMax = 19;

/// Packs batches. Not thread-safe: one a lane. Holds 2 MiB and zstd's tables, which the first batch
/// at a level allocates (level 1: about 1 MiB; level 19: about 20 MiB); then it does not allocate.
class ZstdPacker {
 public:
  /// kNoMemory.
  [[nodiscard]] static Result<ZstdPacker> create();
  ZstdPacker(ZstdPacker&&) noexcept;
  ZstdPacker& operator=(ZstdPacker&&) noexcept;
  ~ZstdPacker();

  /// Packs `parts`, a batch's raw pages and patches, back to back at most kBatchContentBytesMax
  /// bytes, and says how many bytes of `into` it took; 0 when that would not be less than they are,
  /// or more than `into` holds: then they are sent as they are. kNoMemory, kInternal.
  [[nodiscard]] Result<std::size_t> pack(std::span<const iovec> parts, int level,
                                         std::span<std::byte> into);

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const noexcept;
  };
  ZstdPacker();
  std::span<const std::byte> joined(std::span<const iovec> parts);

  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
  std::vector<std::byte> joined_;  // zstd packs contiguous memory faster than it takes pieces.
  std::optional<int> level_;
};

/// How long packed content says it is unpacked: the frame's header, checked against the
/// specification and `table`. `packed` is the peer's and may hold anything. kIntegrity.
[[nodiscard]] Result<std::size_t> unpacked_bytes(const PageTableView& table,
                                                 std::span<const std::byte> packed);

/// Unpacks batches. Not thread-safe: one a lane. Holds zstd's tables (about 160 KiB), and does not
/// allocate after create().
class ZstdUnpacker {
 public:
  /// kNoMemory.
  [[nodiscard]] static Result<ZstdUnpacker> create();
  ZstdUnpacker(ZstdUnpacker&&) noexcept;
  ZstdUnpacker& operator=(ZstdUnpacker&&) noexcept;
  ~ZstdUnpacker();

  /// Unpacks the content of the batch of `table` to the beginning of `into`, which has room for
  /// table.content_bytes_max(), or exactly for what unpacked_bytes() said; gives back the part that
  /// was filled. `packed` may hold anything. kIntegrity; then what is in `into` means nothing.
  [[nodiscard]] Result<std::span<const std::byte>> unpack(const PageTableView& table,
                                                          std::span<const std::byte> packed,
                                                          std::span<std::byte> into);

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const noexcept;
  };
  ZstdUnpacker();
  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
};

}  // namespace migrate::wire
