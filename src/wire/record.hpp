// Records: the one framing of every byte on every lane. See docs/wire-format.md.
//
// A reader takes kRecordHeaderBytes, calls decode_header(), reads the body (all of it, or for PAGES
// its head), calls check_record() and only then looks into it:
//
//   MIGRATE_ASSIGN(auto header, decode_header(bytes, sequence++));
//   body.resize(header.length);               // bounded: length_max() was checked
//   ... read body ...
//   MIGRATE_TRY(check_record(header, body, hasher));
//   if (!header.known()) continue;            // optional type of a later version
//   switch (header.type) { case RecordType::kBarrier: decode<Barrier>(body) ... }
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "migrate/result.hpp"
#include "wire/hasher.hpp"

namespace migrate::wire {

inline constexpr std::size_t kRecordHeaderBytes = 24;

/// Pinned; never renumber, add at the end of a group.
enum class RecordType : std::uint16_t {
  kHello = 0x0001,
  kWelcome = 0x0002,
  kJoin = 0x0003,
  kJoined = 0x0004,
  kAsk = 0x0005,
  kAnswer = 0x0006,
  kError = 0x0007,
  kPing = 0x0008,
  kPong = 0x0009,
  kResume = 0x000A,
  kResumed = 0x000B,
  kResumeTerms = 0x000C,
  kRegions = 0x0010,
  kPages = 0x0011,
  kBarrier = 0x0012,
  kBarrierAck = 0x0013,
  kVoid = 0x0014,
  kVoidEnd = 0x0015,
  kVoided = 0x0016,
  kSectionBegin = 0x0020,
  kSectionData = 0x0021,
  kSectionEnd = 0x0022,
  kStateEnd = 0x0023,
  kOffer = 0x0030,
  kReady = 0x0031,
  kCommit = 0x0032,
  kStarted = 0x0033,
  kReleased = 0x0034,
  kAbort = 0x0035,
  kDiscarded = 0x0036,
  kForward = 0x0037,
  kLazy = 0x0040,
  kLazyTerms = 0x0041,
  kDemand = 0x0042,
  kInstalled = 0x0043,
  kComplete = 0x0044,
  kAlive = 0x8001,
};
/// A reader that does not know a type with this bit skips the record.
inline constexpr std::uint16_t kOptionalTypeBit = 0x8000;

/// The name in the specification, such as "BARRIER_ACK"; "unknown" for other types.
[[nodiscard]] std::string_view to_string(RecordType type);
[[nodiscard]] bool is_known(RecordType type);
/// Longest body of a type; for unknown optional types kOptionalBytesMax.
[[nodiscard]] std::uint32_t length_max(RecordType type);

/// Whether a type's checksum takes the session's secret. kEither (ERROR): as the flag says.
enum class Keying : std::uint8_t { kUnkeyed, kKeyed, kEither };
[[nodiscard]] Keying keying(RecordType type);

/// Flag bit 0: the checksum is keyed. The others are 0.
inline constexpr std::uint16_t kFlagKeyed = 0x0001;

struct RecordHeader {
  RecordType type = RecordType::kError;
  std::uint16_t flags = 0;
  std::uint32_t length = 0;    ///< Of the body, in bytes.
  std::uint64_t sequence = 0;  ///< In this lane and direction, from 0 for each connection.
  std::uint64_t checksum =
      0;  ///< Over the header's first 16 bytes and the hash of the body's head.

  [[nodiscard]] bool known() const { return is_known(type); }
  [[nodiscard]] bool keyed() const { return (flags & kFlagKeyed) != 0; }
  friend bool operator==(const RecordHeader&, const RecordHeader&) = default;
};

/// Checks all that can be known before the body: type, flags, length cap, sequence. The record's
/// length may be trusted as a bound for allocation afterwards. Errors: kProtocol.
[[nodiscard]] Result<RecordHeader> decode_header(
    std::span<const std::byte, kRecordHeaderBytes> bytes, std::uint64_t expected_sequence);

/// Checks the checksum. `head` is the whole body, for PAGES the batch header and the table.
/// kIntegrity when it does not match; kProtocol for a keyed record before `hasher` is keyed.
[[nodiscard]] Status check_record(const RecordHeader& header, std::span<const std::byte> head,
                                  const Hasher& hasher);

/// A header with its checksum. Types that are never keyed ignore the secret; the others need a
/// keyed `hasher`, except ERROR. `length` is the whole body's, `head` the checksummed part of it.
[[nodiscard]] std::array<std::byte, kRecordHeaderBytes> encode_header(
    RecordType type, std::uint32_t length, std::uint64_t sequence, std::span<const std::byte> head,
    const Hasher& hasher);

}  // namespace migrate::wire
