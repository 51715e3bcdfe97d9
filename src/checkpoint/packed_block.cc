#include "checkpoint/packed_block.hpp"

#include <string>

#include "migrate/memory.hpp"

namespace migrate::checkpoint {
namespace {

// RFC 8878, 3.1.1.1.1: after the magic number, the descriptor; its low bits say of a dictionary and
// a checksum, and one is reserved.
constexpr std::size_t kDescriptorAt = 4;
constexpr std::byte kRefusedBits{0b1111};

Error broken(const BlockHead& head, const std::string& what) {
  return make_error(ErrorCode::kIntegrity,
                    "the image is damaged at byte " + std::to_string(head.offset) + ": " + what)
      .advise("take another copy of it, or an older checkpoint");
}

}  // namespace

std::span<const TableEntry> table_of(const BlockHead& head, std::span<const std::byte> block) {
  MIGRATE_CHECK(block.size() >= head.hashed_bytes());
  const auto* const at = block.data() + kBlockHeadBytes;
  MIGRATE_CHECK(reinterpret_cast<std::uintptr_t>(at) % alignof(TableEntry) == 0);
  return {reinterpret_cast<const TableEntry*>(at), head.count};
}

Status check_table(const BlockHead& head, std::span<const TableEntry> table, std::uint64_t pages) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i].page >= pages || (i > 0 && table[i].page <= table[i - 1].page)) {
      return broken(head, "the block's table names pages that are not there, or not in order");
    }
  }
  return {};
}

Result<FrameUnpacker> FrameUnpacker::create() {
  FrameUnpacker unpacker;
  unpacker.context_.reset(ZSTD_createDCtx());
  if (!unpacker.context_) {
    return make_error(ErrorCode::kNoMemory, "no memory for zstd to unpack pages")
        .advise("free memory on this host");
  }
  return unpacker;
}

Status FrameUnpacker::unpack(const BlockHead& head, std::span<const std::byte> payload,
                             std::span<std::byte> into) {
  const std::uint64_t bytes = head.count * kPageSize;
  MIGRATE_CHECK(into.size() >= bytes);
  if (ZSTD_getFrameContentSize(payload.data(), payload.size()) != bytes ||
      (payload[kDescriptorAt] & kRefusedBits) != std::byte{0}) {
    return broken(head, "PACKED has no frame of as many bytes as its pages have");
  }
  // Else zstd would go on with the next frame, or skip what it may skip.
  const std::size_t frame = ZSTD_findFrameCompressedSize(payload.data(), payload.size());
  if (ZSTD_isError(frame) != 0 || frame != payload.size()) {
    return broken(head, "PACKED does not end where its frame does");
  }
  const std::size_t got =
      ZSTD_decompressDCtx(context_.get(), into.data(), bytes, payload.data(), payload.size());
  if (ZSTD_isError(got) != 0) {
    return broken(head, std::string("PACKED cannot be unpacked: ") + ZSTD_getErrorName(got));
  }
  if (got != bytes) return broken(head, "PACKED is shorter than it says");
  return {};
}

}  // namespace migrate::checkpoint
