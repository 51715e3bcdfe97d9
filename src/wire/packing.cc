#include "wire/packing.hpp"

#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "wire/codec.hpp"

namespace migrate::wire {
namespace {

// RFC 8878, 3.1.1: magic number, then the frame header, of which the first byte says the rest.
constexpr std::size_t kMagicBytes = 4;
constexpr std::size_t kFrameHeaderBytesMax = 14;
constexpr std::uint64_t kWindowBytesMax = kBatchContentBytesMax;
static_assert(kWindowBytesMax == 2u << 20, "the specification says 2 MiB");

// Level 1 spends its time in a hash table of 64 KiB, which does not fit the first-level cache. One
// of 16 KiB packs programs and text 10 % faster, to 3 % more and to 1 % less.
constexpr int kFastHashLog = 12;

Error packed_error(std::string what) {
  return make_error(ErrorCode::kIntegrity,
                    "invalid packed content of a PAGES record: " + std::move(what))
      .advise("check the network path, then send again; if it happens twice, please report it");
}

Error no_memory(const char* what) {
  return make_error(ErrorCode::kNoMemory, std::string("no memory for zstd to ") + what)
      .advise("free memory on this host, or migrate without compression");
}

/// RFC 8878, 3.1.1.1.2: an exponent of five bits and a mantissa of three.
std::uint64_t window_bytes(std::byte descriptor) {
  const auto bits = static_cast<unsigned>(descriptor);
  const std::uint64_t base = std::uint64_t{1} << (10 + (bits >> 3));
  return base + base / 8 * (bits & 7);
}

std::uint64_t load_content_size(const std::byte* from, unsigned flag) {
  switch (flag) {
    case 0:
      return static_cast<std::uint64_t>(*from);
    case 1:
      return std::uint64_t{load_u16(from)} + 256;
    case 2:
      return load_u32(from);
    default:
      return load_u64(from);
  }
}

/// Frame_Content_Size of a frame that is as the specification wants it.
Result<std::uint64_t> frame_content_size(std::span<const std::byte> packed) {
  if (packed.size() < kMagicBytes + 1 || load_u32(packed.data()) != ZSTD_MAGICNUMBER) {
    return packed_error("it is no zstd frame");
  }
  const auto descriptor = static_cast<unsigned>(packed[kMagicBytes]);
  const unsigned size_flag = descriptor >> 6;
  const bool single_segment = (descriptor >> 5 & 1) != 0;
  // Reserved bit, Content_Checksum_flag, Dictionary_ID_flag. Bit 4 means nothing.
  if ((descriptor & 0b1111) != 0) {
    return packed_error("the frame has a checksum, a dictionary or the reserved bit");
  }
  if (size_flag == 0 && !single_segment) {
    return packed_error("the frame does not say how long its content is");
  }
  std::size_t at = kMagicBytes + 1;
  const std::size_t size_bytes = std::size_t{1} << size_flag;
  const std::size_t header_bytes = at + (single_segment ? 0 : 1) + size_bytes;
  static_assert(kMagicBytes + 1 + 1 + 8 == kFrameHeaderBytesMax);
  if (packed.size() < header_bytes) return packed_error("the frame's header is cut short");
  if (!single_segment && window_bytes(packed[at++]) > kWindowBytesMax) {
    return packed_error("the frame's window is larger than a batch");
  }
  return load_content_size(packed.data() + at, size_flag);
}

}  // namespace

void ZstdPacker::Free::operator()(ZSTD_CCtx_s* context) const noexcept { ZSTD_freeCCtx(context); }

ZstdPacker::ZstdPacker() : context_(ZSTD_createCCtx()) {}
ZstdPacker::ZstdPacker(ZstdPacker&&) noexcept = default;
ZstdPacker& ZstdPacker::operator=(ZstdPacker&&) noexcept = default;
ZstdPacker::~ZstdPacker() = default;

Result<ZstdPacker> ZstdPacker::create() {
  ZstdPacker packer;
  if (!packer.context_) return no_memory("pack pages");
  packer.joined_.resize(kBatchContentBytesMax);
  return packer;
}

std::span<const std::byte> ZstdPacker::joined(std::span<const iovec> parts) {
  std::size_t bytes = 0;
  bool contiguous = true;
  const auto* const begin = static_cast<const std::byte*>(parts.front().iov_base);
  for (const iovec& part : parts) {
    contiguous = contiguous && part.iov_base == begin + bytes;
    bytes += part.iov_len;
  }
  MIGRATE_CHECK(bytes <= kBatchContentBytesMax);
  if (contiguous) return {begin, bytes};
  std::byte* to = joined_.data();
  for (const iovec& part : parts) {
    if (part.iov_len > 0) std::memcpy(to, part.iov_base, part.iov_len);
    to += part.iov_len;
  }
  return {joined_.data(), bytes};
}

Result<std::size_t> ZstdPacker::pack(std::span<const iovec> parts, int level,
                                     std::span<std::byte> into) {
  MIGRATE_CHECK(level >= kZstdLevelMin && level <= kZstdLevelMax);
  if (parts.empty()) return std::size_t{0};
  const auto content = joined(parts);
  if (content.empty()) return std::size_t{0};
  if (level_ != level) {
    // 0 is zstd's own choice.
    const int hash_log = level == 1 ? kFastHashLog : 0;
    for (const auto& [parameter, value] :
         {std::pair(ZSTD_c_compressionLevel, level), std::pair(ZSTD_c_hashLog, hash_log)}) {
      if (ZSTD_isError(ZSTD_CCtx_setParameter(context_.get(), parameter, value)) != 0) {
        return make_error(ErrorCode::kInternal, "zstd refuses level " + std::to_string(level));
      }
    }
    level_ = level;
  }
  // zstd stops where the room ends: content that does not pack costs no more than that.
  const std::size_t room = std::min(into.size(), content.size() - 1);
  const std::size_t size =
      ZSTD_compress2(context_.get(), into.data(), room, content.data(), content.size());
  if (ZSTD_isError(size) == 0) return size;
  const ZSTD_ErrorCode code = ZSTD_getErrorCode(size);
  if (code == ZSTD_error_dstSize_tooSmall) return std::size_t{0};
  if (code == ZSTD_error_memory_allocation) return no_memory("pack pages");
  return make_error(ErrorCode::kInternal,
                    std::string("zstd cannot pack pages: ") + ZSTD_getErrorName(size));
}

Result<std::size_t> unpacked_bytes(const PageTableView& table, std::span<const std::byte> packed) {
  MIGRATE_ASSIGN(const std::uint64_t size, frame_content_size(packed));
  if (size < table.content_bytes_min() || size > table.content_bytes_max()) {
    return packed_error(std::to_string(size) + " bytes of content are announced, the table has " +
                        std::to_string(table.content_bytes_min()) + " to " +
                        std::to_string(table.content_bytes_max()));
  }
  if (packed.size() >= size) {
    return packed_error(std::to_string(size) + " bytes are packed to " +
                        std::to_string(packed.size()));
  }
  return static_cast<std::size_t>(size);
}

void ZstdUnpacker::Free::operator()(ZSTD_DCtx_s* context) const noexcept { ZSTD_freeDCtx(context); }

ZstdUnpacker::ZstdUnpacker() : context_(ZSTD_createDCtx()) {}
ZstdUnpacker::ZstdUnpacker(ZstdUnpacker&&) noexcept = default;
ZstdUnpacker& ZstdUnpacker::operator=(ZstdUnpacker&&) noexcept = default;
ZstdUnpacker::~ZstdUnpacker() = default;

Result<ZstdUnpacker> ZstdUnpacker::create() {
  ZstdUnpacker unpacker;
  if (!unpacker.context_) return no_memory("unpack pages");
  return unpacker;
}

Result<std::span<const std::byte>> ZstdUnpacker::unpack(const PageTableView& table,
                                                        std::span<const std::byte> packed,
                                                        std::span<std::byte> into) {
  MIGRATE_ASSIGN(const std::size_t size, unpacked_bytes(table, packed));
  MIGRATE_CHECK(into.size() >= size);
  // Else zstd would go on with the next frame, or skip what it may skip.
  const std::size_t frame = ZSTD_findFrameCompressedSize(packed.data(), packed.size());
  if (ZSTD_isError(frame) != 0 || frame != packed.size()) {
    return packed_error("it does not end where its frame does");
  }
  const std::size_t got =
      ZSTD_decompressDCtx(context_.get(), into.data(), size, packed.data(), packed.size());
  if (ZSTD_isError(got) != 0) return packed_error(ZSTD_getErrorName(got));
  if (got != size) return packed_error("it is shorter than it says");
  return std::span<const std::byte>(into.first(size));
}

}  // namespace migrate::wire
