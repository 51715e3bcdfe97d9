// A stream of records as a reader of any lane takes them: header, checksum, then the message. What
// is taken is written again and must be the same. Checksums are put right first: a fuzzer does not
// guess them, and a peer may send what it likes.
#include <cstdlib>
#include <vector>

#include "tests/fuzz/fuzz.hpp"
#include "wire/codec.hpp"
#include "wire/messages.hpp"

namespace migrate::wire {
namespace {

Hasher session_hasher() {
  SessionRandom half;
  half.bytes.fill(std::byte{7});
  return Hasher(half, half);
}

template <typename Message>
void round_trip(std::span<const std::byte> body) {
  const auto message = decode<Message>(body);
  if (!message) return;
  std::vector<std::byte> again;
  if (!encode_record(*message, 0, session_hasher(), again)) std::abort();
  const auto back = decode<Message>(std::span(again).subspan(kRecordHeaderBytes));
  if (!back) std::abort();
}

void take(const RecordHeader& header, std::span<const std::byte> body) {
#define TAKE(Message) \
  if (header.type == Message::kType) round_trip<Message>(body);
  MIGRATE_WIRE_MESSAGES(TAKE)
#undef TAKE
}

/// The bytes of the record at the front, or none when there is no whole valid one.
std::size_t take_record(std::span<const std::byte> bytes, std::uint64_t sequence,
                        const Hasher& hasher) {
  if (bytes.size() < kRecordHeaderBytes) return 0;
  const auto header = decode_header(bytes.first<kRecordHeaderBytes>(), sequence);
  if (!header || bytes.size() - kRecordHeaderBytes < header->length) return 0;
  const auto body = bytes.subspan(kRecordHeaderBytes, header->length);
  (void)check_record(*header, body, hasher);
  const auto right = encode_header(header->type, header->length, sequence, body, hasher);
  const auto checked = decode_header(right, sequence);
  if (!checked || !check_record(*checked, body, hasher)) std::abort();
  take(*header, body);
  return kRecordHeaderBytes + header->length;
}

}  // namespace
}  // namespace migrate::wire

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace migrate;
  static const wire::Hasher hasher = wire::session_hasher();
  auto bytes = fuzz::input(data, size);
  for (std::uint64_t sequence = 0;; ++sequence) {
    const std::size_t taken = wire::take_record(bytes, sequence, hasher);
    if (taken == 0) return 0;
    bytes = bytes.subspan(taken);
  }
}
