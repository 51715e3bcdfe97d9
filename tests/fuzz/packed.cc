// Packed content from a peer, for a batch of as many raw pages as the first byte says (1 to 64),
// and of as many deltas as the second (0 to 255).
#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

#include "tests/fuzz/fuzz.hpp"
#include "wire/codec.hpp"
#include "wire/packing.hpp"

namespace migrate::wire {
namespace {

constexpr AgreedContent kAll{kEncodingsKnown, kCodecsKnown};

void unpack(std::size_t raw, std::size_t deltas, std::span<const std::byte> packed) {
  static ZstdUnpacker unpacker = *ZstdUnpacker::create();
  std::vector<std::byte> bytes((raw + deltas) * kPageEntryBytes);
  for (std::size_t i = 0; i < raw + deltas; ++i) {
    const auto encoding = i < raw ? PageEncoding::kRaw : PageEncoding::kDelta;
    store_u64(bytes.data() + i * kPageEntryBytes, static_cast<std::uint64_t>(encoding) << 56 | i);
  }
  BatchHeader batch;
  batch.entries = static_cast<std::uint16_t>(raw + deltas);
  batch.codec = ContentCodec::kZstd;
  batch.content_bytes = static_cast<std::uint32_t>(packed.size());
  batch.pages = raw + deltas;
  const auto table = decode_page_table(batch, bytes, raw + deltas, kAll);
  if (!table) return;
  const auto size = unpacked_bytes(*table, packed);
  if (!size) return;
  if (*size > table->content_bytes_max() || packed.size() >= *size) std::abort();
  // Exactly the room that is needed: a sanitizer sees a write beyond it.
  const auto into = std::make_unique<std::byte[]>(*size);
  const auto content = unpacker.unpack(*table, packed, {into.get(), *size});
  if (content && content->size() != *size) std::abort();
}

}  // namespace
}  // namespace migrate::wire

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2 || size > migrate::wire::kBatchContentBytesMax) return 0;
  const auto packed = migrate::fuzz::input(data, size).subspan(2);
  migrate::wire::unpack(1 + data[0] % 64, data[1], packed);
  return 0;
}
