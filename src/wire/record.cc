#include "wire/record.hpp"

#include <algorithm>
#include <string>

#include "wire/codec.hpp"
#include "wire/limits.hpp"
#include "wire/pages.hpp"

namespace migrate::wire {
namespace {

/// An Error's fields; ABORT and DISCARDED put attempt and scope before them.
constexpr std::uint32_t kErrorBytesMax =
    2 + 1 + 1 + 4 + 4 + kErrorMessageBytesMax + 4 + kErrorRemedyBytesMax;

struct TypeTraits {
  RecordType type;
  std::string_view name;
  std::uint32_t length_max;  // Exact for types of fixed length.
  Keying keying;
};

// HELLO, WELCOME, JOIN, ASK, ANSWER and RESUME come before both sides share a secret, or are read
// by a process that does not have it (a listener that answers for another one's journal).
constexpr TypeTraits kTypes[] = {
    {RecordType::kHello, "HELLO", kHelloBytesMax, Keying::kUnkeyed},
    {RecordType::kWelcome, "WELCOME", 192 + kNameBytesMax, Keying::kUnkeyed},
    {RecordType::kJoin, "JOIN", 51, Keying::kUnkeyed},
    {RecordType::kJoined, "JOINED", 2, Keying::kKeyed},
    {RecordType::kAsk, "ASK", 48, Keying::kUnkeyed},
    {RecordType::kAnswer, "ANSWER", 22, Keying::kUnkeyed},
    {RecordType::kError, "ERROR", kErrorBytesMax, Keying::kEither},
    {RecordType::kPing, "PING", 16, Keying::kKeyed},
    {RecordType::kPong, "PONG", 16, Keying::kKeyed},
    {RecordType::kResume, "RESUME", 52, Keying::kUnkeyed},
    {RecordType::kResumed, "RESUMED", 12, Keying::kKeyed},
    {RecordType::kResumeTerms, "RESUME_TERMS", 4, Keying::kKeyed},
    {RecordType::kRegions, "REGIONS", kRegionsBytesMax, Keying::kKeyed},
    {RecordType::kPages, "PAGES", kBatchHeadBytesMax + kBatchContentBytesMax, Keying::kKeyed},
    {RecordType::kBarrier, "BARRIER", 21, Keying::kKeyed},
    {RecordType::kBarrierAck, "BARRIER_ACK", 12, Keying::kKeyed},
    {RecordType::kVoid, "VOID", 16 + kVoidWordsMax * 8, Keying::kKeyed},
    {RecordType::kVoidEnd, "VOID_END", 16, Keying::kKeyed},
    {RecordType::kVoided, "VOIDED", 8, Keying::kKeyed},
    {RecordType::kSectionBegin, "SECTION_BEGIN", 9 + kSectionNameBytesMax, Keying::kKeyed},
    {RecordType::kSectionData, "SECTION_DATA", kSectionChunkBytesMax, Keying::kKeyed},
    {RecordType::kSectionEnd, "SECTION_END", 8, Keying::kKeyed},
    {RecordType::kStateEnd, "STATE_END", 12, Keying::kKeyed},
    {RecordType::kOffer, "OFFER", 30, Keying::kKeyed},
    {RecordType::kReady, "READY", 52, Keying::kKeyed},
    {RecordType::kCommit, "COMMIT", 4, Keying::kKeyed},
    {RecordType::kStarted, "STARTED", 12, Keying::kKeyed},
    {RecordType::kReleased, "RELEASED", 4, Keying::kKeyed},
    {RecordType::kAbort, "ABORT", 5 + kErrorBytesMax, Keying::kKeyed},
    {RecordType::kDiscarded, "DISCARDED", 5 + kErrorBytesMax, Keying::kKeyed},
    {RecordType::kForward, "FORWARD", 8 + kForwardFrameBytesMax, Keying::kKeyed},
    {RecordType::kLazy, "LAZY", 9, Keying::kKeyed},
    {RecordType::kLazyTerms, "LAZY_TERMS", 4 + kRegionsMax * 8, Keying::kKeyed},
    {RecordType::kDemand, "DEMAND", 4 + kDemandsMax * 16, Keying::kKeyed},
    {RecordType::kInstalled, "INSTALLED", 16 + kVoidWordsMax * 8, Keying::kKeyed},
    {RecordType::kComplete, "COMPLETE", 60 + kStallsMax * 8, Keying::kKeyed},
    {RecordType::kAlive, "ALIVE", 0, Keying::kKeyed},
};

const TypeTraits* traits(RecordType type) {
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const TypeTraits& t) { return t.type == type; });
  return found == std::end(kTypes) ? nullptr : found;
}

std::string number_and_name(RecordType type) {
  return std::to_string(static_cast<unsigned>(type)) + " (" + std::string(to_string(type)) + ")";
}

Error header_error(std::size_t byte, std::string what) {
  return make_error(ErrorCode::kProtocol,
                    "invalid record header, byte " + std::to_string(byte) + ": " + std::move(what));
}

Error unknown_type(RecordType type, std::uint64_t expected_sequence) {
  Error error =
      header_error(0, "type " + std::to_string(static_cast<unsigned>(type)) + " is not known");
  if (expected_sequence == 0) {
    error.message = "the peer does not speak migrate's protocol: " + error.message;
    return error.advise("check that the address is that of migrate recv");
  }
  return error.advise("run the same version of migrate on both hosts");
}

constexpr std::size_t kChecksumByte = 16;

/// All but the checksum.
void store_fields(std::byte* to, const RecordHeader& header) {
  store_u16(to, static_cast<std::uint16_t>(header.type));
  store_u16(to + 2, header.flags);
  store_u32(to + 4, header.length);
  store_u64(to + 8, header.sequence);
}

/// Hash of the header's other fields and the hash of the head: two short steps instead of one over
/// bytes that lie apart.
std::uint64_t checksum_of(const RecordHeader& header, std::span<const std::byte> head,
                          const Hasher& hasher) {
  const Hasher unkeyed;
  const Hasher& chosen = header.keyed() ? hasher : unkeyed;
  std::array<std::byte, kRecordHeaderBytes> bytes;
  store_fields(bytes.data(), header);
  store_u64(bytes.data() + kChecksumByte, chosen.hash(head));
  return chosen.hash(bytes);
}

/// RFC 8446, 5.1: a handshake or an alert, of any version of TLS. No record of ours begins so.
bool begins_tls(std::span<const std::byte, kRecordHeaderBytes> bytes) {
  return (bytes[0] == std::byte{22} || bytes[0] == std::byte{21}) && bytes[1] == std::byte{3};
}

}  // namespace

std::string_view to_string(RecordType type) {
  const TypeTraits* found = traits(type);
  return found == nullptr ? "unknown" : found->name;
}

bool is_known(RecordType type) { return traits(type) != nullptr; }

std::uint32_t length_max(RecordType type) {
  const TypeTraits* found = traits(type);
  return found == nullptr ? static_cast<std::uint32_t>(kOptionalBytesMax) : found->length_max;
}

Keying keying(RecordType type) {
  const TypeTraits* found = traits(type);
  return found == nullptr ? Keying::kEither : found->keying;
}

Result<RecordHeader> decode_header(std::span<const std::byte, kRecordHeaderBytes> bytes,
                                   std::uint64_t expected_sequence) {
  RecordHeader header;
  header.type = static_cast<RecordType>(load_u16(bytes.data()));
  header.flags = load_u16(bytes.data() + 2);
  header.length = load_u32(bytes.data() + 4);
  header.sequence = load_u64(bytes.data() + 8);
  header.checksum = load_u64(bytes.data() + 16);
  if (expected_sequence == 0 && begins_tls(bytes)) {
    return make_error(ErrorCode::kProtocol, "the peer speaks TLS, this side does not")
        .advise("give --tls-cert, --tls-key and --tls-ca, or --tls-psk, on both sides or on none");
  }
  if (!header.known() && (static_cast<unsigned>(header.type) & kOptionalTypeBit) == 0) {
    return unknown_type(header.type, expected_sequence);
  }
  const Keying needed = keying(header.type);
  if ((header.flags & ~kFlagKeyed) != 0 || (needed == Keying::kKeyed && !header.keyed()) ||
      (needed == Keying::kUnkeyed && header.keyed())) {
    return header_error(2, "flags " + std::to_string(header.flags) + " do not fit type " +
                               number_and_name(header.type));
  }
  if (header.length > length_max(header.type)) {
    return header_error(4, "length " + std::to_string(header.length) + " of type " +
                               number_and_name(header.type) + " is beyond its limit of " +
                               std::to_string(length_max(header.type)));
  }
  if (header.type == RecordType::kPages && header.length < kBatchHeaderBytes + kPageEntryBytes) {
    return header_error(4, "length " + std::to_string(header.length) +
                               " of a PAGES record that has no room for a batch");
  }
  if (header.sequence != expected_sequence) {
    return header_error(8, "sequence " + std::to_string(header.sequence) + " instead of " +
                               std::to_string(expected_sequence) + " in type " +
                               number_and_name(header.type));
  }
  return header;
}

Status check_record(const RecordHeader& header, std::span<const std::byte> head,
                    const Hasher& hasher) {
  if (header.keyed() && !hasher.keyed()) {
    return header_error(2, "type " + number_and_name(header.type) +
                               " is keyed, but no session has been agreed here");
  }
  if (checksum_of(header, head, hasher) == header.checksum) return {};
  return make_error(ErrorCode::kIntegrity,
                    std::string(to_string(header.type)) + " record " +
                        std::to_string(header.sequence) +
                        " was damaged on the way: its checksum (byte 16) does not match")
      .advise("something between the hosts corrupts data; check the network path and memory");
}

std::array<std::byte, kRecordHeaderBytes> encode_header(RecordType type, std::uint32_t length,
                                                        std::uint64_t sequence,
                                                        std::span<const std::byte> head,
                                                        const Hasher& hasher) {
  const Keying needed = keying(type);
  MIGRATE_CHECK(length <= length_max(type));
  MIGRATE_CHECK(needed != Keying::kKeyed || hasher.keyed());
  const bool keyed = hasher.keyed() && needed != Keying::kUnkeyed;
  const RecordHeader header{type, keyed ? kFlagKeyed : std::uint16_t{0}, length, sequence, 0};
  std::array<std::byte, kRecordHeaderBytes> bytes;
  store_fields(bytes.data(), header);
  store_u64(bytes.data() + kChecksumByte, checksum_of(header, head, hasher));
  return bytes;
}

}  // namespace migrate::wire
