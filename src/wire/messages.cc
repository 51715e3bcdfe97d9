#include "wire/messages.hpp"

#include <algorithm>
#include <type_traits>

#include "wire/codec.hpp"

namespace migrate::wire {
namespace {

// One description a message serves both directions: Codec is Writer or Reader, Message is const
// for the Writer. docs/wire-format.md has the same fields as tables.

constexpr std::array<std::byte, 8> kMagic = {std::byte{'M'}, std::byte{'I'}, std::byte{'G'},
                                             std::byte{'R'}, std::byte{'A'}, std::byte{'T'},
                                             std::byte{'E'}, std::byte{'1'}};
constexpr std::size_t kRegionBytes = 29;
constexpr std::size_t kHandleBytes = 4;
constexpr std::size_t kPropertyBytesMin = 13;

template <typename Message, typename Expected>
concept Is = std::is_same_v<std::remove_const_t<Message>, Expected>;

template <typename Codec>
void describe(Codec& codec, Is<Region> auto& region) {
  codec.u32(region.id.space);
  codec.u32(region.id.id);
  codec.u32(region.id.generation);
  codec.u64(region.range.first.number);
  codec.u64(region.range.count);
  codec.require(region.range.count > 0 && region.range.count <= kPageNumberMax &&
                    region.range.first.number <= kPageNumberMax - region.range.count,
                "a region is empty or does not fit in a 64-bit address space");
  codec.choice(region.backing, "backing", Backing::kUnknown, Backing::kFile);
}

template <typename Codec>
void describe(Codec& codec, Is<SectionInfo> auto& info) {
  codec.text(info.name, TextKind::kSection, {"section name", kSectionNameBytesMax});
  codec.u32(info.version);
  codec.boolean(info.mandatory, "mandatory");
}

template <typename Codec>
void describe(Codec& codec, Is<SessionLimits> auto& limits) {
  codec.u32(limits.batch_entries);
  codec.require(limits.batch_entries >= 1 && limits.batch_entries <= kBatchEntriesMax,
                "the limit of entries in a batch is not 1 to 512");
  codec.u32(limits.section_chunk_bytes);
  codec.require(
      limits.section_chunk_bytes >= 1 && limits.section_chunk_bytes <= kSectionChunkBytesMax,
      "the limit of a section's chunk is not 1 byte to 1 MiB");
  codec.u64(limits.state_bytes);
}

template <typename Codec>
void describe(Codec& codec, Is<SessionRandom> auto& random) {
  codec.fixed(random.bytes);
  // XXH3 is only as good as its secret; zeros mean that somebody forgot to fill it.
  codec.require(std::any_of(random.bytes.begin(), random.bytes.end(),
                            [](std::byte byte) { return byte != std::byte{0}; }),
                "the random bytes are all 0");
}

template <typename Codec>
void describe(Codec& codec, Is<GuestDescription> auto& guest) {
  codec.choice(guest.kind, "guest kind", GuestKind::kVm, GuestKind::kContainer);
  codec.text(guest.name, TextKind::kName, {"guest name", kNameBytesMax});
  codec.u32(guest.vcpus);
  codec.require(guest.vcpus <= kVcpusMax, "there are more vCPUs than any host has");
  codec.list(guest.regions, kRegionBytes, {"list of regions", kRegionsMax},
             [&](auto& region) { describe(codec, region); });
  std::size_t bytes_left = kPropertiesBytesMax;
  codec.list(guest.properties, kPropertyBytesMin, {"list of properties", kPropertiesMax},
             [&](auto& property) {
               describe(codec, property.info);
               codec.blob(property.body, {"property", std::min(kPropertyBytesMax, bytes_left)});
               bytes_left -= std::min(bytes_left, property.body.size());
             });
}

template <typename Codec>
void describe_codecs(Codec& codec, auto& message) {
  codec.u32(message.encodings);
  codec.require((message.encodings & kEncodingsBase) == kEncodingsBase,
                "raw pages and runs of zeros are not among the encodings");
  codec.u32(message.codecs);
  codec.require((message.codecs & kCodecsBase) == kCodecsBase,
                "plain content is not among the codecs");
}

template <typename Codec>
void describe_bulk_lanes(Codec& codec, auto& lanes) {
  codec.u16(lanes);
  codec.require(lanes >= 1 && lanes <= kBulkLanesMax, "the number of bulk lanes is not 1 to 64");
}

template <typename Codec>
void describe(Codec& codec, Is<Hello> auto& hello) {
  auto magic = kMagic;
  codec.fixed(magic);
  codec.require(magic == kMagic, "this is not migrate's protocol");
  codec.u16(hello.version_min);
  codec.u16(hello.version_max);
  codec.require(hello.version_min <= hello.version_max, "the range of versions is upside down");
  codec.u64(hello.features);
  codec.fixed(hello.session.bytes);
  codec.u32(hello.page_size);
  describe_bulk_lanes(codec, hello.bulk_lanes);
  describe_codecs(codec, hello);
  describe(codec, hello.limits);
  describe(codec, hello.random);
  codec.fixed(hello.boot.bytes);
  codec.choice(hello.strategy, "strategy", Strategy::kAuto, Strategy::kHybrid);
  codec.choice(hello.verify, "verify mode", VerifyMode::kDigest, VerifyMode::kFull);
  codec.u64(hello.max_downtime_us);
  codec.text(hello.host, TextKind::kName, {"host name", kNameBytesMax});
  describe(codec, hello.guest);
}

template <typename Codec>
void describe(Codec& codec, Is<Welcome> auto& welcome) {
  codec.u16(welcome.version);
  codec.u64(welcome.features);
  describe_bulk_lanes(codec, welcome.bulk_lanes);
  describe_codecs(codec, welcome);
  describe(codec, welcome.limits);
  describe(codec, welcome.random);
  codec.fixed(welcome.secret.bytes);
  codec.fixed(welcome.boot.bytes);
  codec.u64(welcome.load_us);
  codec.text(welcome.host, TextKind::kName, {"host name", kNameBytesMax});
}

template <typename Codec>
void describe(Codec& codec, Is<Join> auto& join) {
  codec.fixed(join.session.bytes);
  codec.u16(join.lane.number);
  codec.require(join.lane.number >= 1 && join.lane.number <= kBulkLanesMax + 1,
                "the lane is not one that can be joined");
  codec.choice(join.role, "lane role", LaneRole::kBulk, LaneRole::kUrgent);
  codec.fixed(join.proof.bytes);
}

template <typename Codec>
void describe(Codec& codec, Is<Joined> auto& joined) {
  codec.u16(joined.lane.number);
}

template <typename Codec>
void describe(Codec& codec, Is<Ask> auto& ask) {
  codec.fixed(ask.session.bytes);
  codec.fixed(ask.proof.bytes);
}

template <typename Codec>
void describe(Codec& codec, Is<Answer> auto& answer) {
  codec.choice(answer.state, "journal state", JournalState::kUnknown, JournalState::kDiscarded);
  codec.u32(answer.attempt);
  codec.fixed(answer.boot.bytes);
  codec.boolean(answer.process_lives, "process_lives");
}

/// A number of a later version must not hide the words that come with it.
template <typename E>
E known_or(unsigned number, E otherwise) {
  const auto value = static_cast<E>(number);
  return to_string(value) == "unknown" ? otherwise : value;
}

template <typename Codec>
void describe(Codec& codec, Is<Error> auto& error) {
  auto code = static_cast<std::uint16_t>(error.code);
  auto phase = static_cast<std::uint8_t>(error.phase);
  auto side = static_cast<std::uint8_t>(error.side);
  auto sys_errno = static_cast<std::int32_t>(error.sys_errno);
  codec.u16(code);
  codec.u8(phase);
  codec.u8(side);
  codec.i32(sys_errno);
  codec.text(error.message, TextKind::kMessage, {"error message", kErrorMessageBytesMax});
  codec.text(error.remedy, TextKind::kMessage, {"error remedy", kErrorRemedyBytesMax});
  if constexpr (Codec::kReads) {
    error.code = known_or(code, ErrorCode::kInternal);
    error.phase = known_or(phase, Phase::kNone);
    error.side = known_or(side, Side::kNone);
    error.sys_errno = sys_errno;
  }
}

template <typename Codec>
void describe(Codec& codec, Is<ErrorRecord> auto& record) {
  describe(codec, record.error);
}

template <typename Codec, typename Message>
requires Is<Message, Ping> || Is<Message, Pong>
void describe(Codec& codec, Message& ping) {
  codec.u64(ping.nonce);
  codec.u64(ping.time_ns);
}

template <typename Codec>
void describe(Codec&, Is<Alive> auto&) {}

template <typename Codec>
void describe(Codec& codec, Is<Regions> auto& regions) {
  codec.u32(regions.first_handle.number);
  codec.list(regions.added, kRegionBytes, {"list of regions", kRegionsMax},
             [&](auto& region) { describe(codec, region); });
  codec.require(regions.added.size() <= ~std::uint32_t{0} - regions.first_handle.number,
                "the handles run over");
  codec.list(regions.removed, kHandleBytes, {"list of removed regions", kRegionsMax},
             [&](auto& handle) { codec.u32(handle.number); });
}

template <typename Codec>
void describe(Codec& codec, Is<Barrier> auto& barrier) {
  codec.u32(barrier.round);
  codec.boolean(barrier.final, "final");
  codec.u64(barrier.pages);
  codec.u64(barrier.digest_change);
}

template <typename Codec>
void describe(Codec& codec, Is<BarrierAck> auto& ack) {
  codec.u32(ack.round);
  codec.u64(ack.digest);
}

template <typename Codec>
void describe(Codec& codec, Is<ResumeTerms> auto& terms) {
  codec.u32(terms.window_ms);
  codec.require(terms.window_ms <= kResumeWindowMsMax, "the window is longer than a day");
}

template <typename Codec>
void describe(Codec& codec, Is<Resume> auto& resume) {
  codec.fixed(resume.session.bytes);
  codec.fixed(resume.proof.bytes);
  codec.u32(resume.round);
}

template <typename Codec>
void describe(Codec& codec, Is<Resumed> auto& resumed) {
  codec.u32(resumed.round);
  codec.u64(resumed.digest);
}

template <typename Codec, typename Message>
requires Is<Message, Void> || Is<Message, Installed>
void describe(Codec& codec, Message& pages) {
  codec.u32(pages.region.number);
  codec.u64(pages.first);
  codec.require(pages.first % 64 == 0 && pages.first < kPageNumberMax,
                "the first page is not a multiple of 64, or beyond any region");
  codec.list(pages.words, sizeof(std::uint64_t), {"bitmap", kVoidWordsMax},
             [&](auto& word) { codec.u64(word); });
}

template <typename Codec>
void describe(Codec& codec, Is<VoidEnd> auto& end) {
  codec.u64(end.pages);
  codec.u64(end.digest);
}

template <typename Codec>
void describe(Codec& codec, Is<Voided> auto& voided) {
  codec.u64(voided.digest);
}

template <typename Codec>
void describe(Codec& codec, Is<SectionBegin> auto& begin) {
  describe(codec, begin.info);
}

template <typename Codec>
void describe(Codec& codec, Is<SectionEnd> auto& end) {
  codec.u64(end.bytes);
}

template <typename Codec>
void describe(Codec& codec, Is<StateEnd> auto& end) {
  codec.u32(end.sections);
  codec.u64(end.bytes);
}

template <typename Codec>
void describe(Codec& codec, Is<Offer> auto& offer) {
  codec.u32(offer.attempt);
  codec.choice(offer.run_state, "run state", RunState::kRunning, RunState::kPaused);
  codec.boolean(offer.has_full_digest, "has_full_digest");
  codec.u64(offer.digest);
  codec.u64(offer.full_digest);
  codec.require(offer.has_full_digest || offer.full_digest == 0,
                "a full digest that is said not to be there");
  codec.u64(offer.total_pages);
}

template <typename Codec>
void describe(Codec& codec, Is<Ready> auto& ready) {
  codec.u32(ready.attempt);
  codec.u64(ready.lease_ns);
  codec.u64(ready.digest);
  codec.u64(ready.final_apply_us);
  codec.u64(ready.verify_us);
  codec.u64(ready.state_load_us);
  codec.u64(ready.acquire_us);
}

template <typename Codec, typename Message>
requires Is<Message, Commit> || Is<Message, Released>
void describe(Codec& codec, Message& message) { codec.u32(message.attempt); }

template <typename Codec>
void describe(Codec& codec, Is<Started> auto& started) {
  codec.u32(started.attempt);
  codec.u64(started.start_us);
}

template <typename Codec, typename Message>
requires Is<Message, Abort> || Is<Message, Discarded>
void describe(Codec& codec, Message& message) {
  codec.u32(message.attempt);
  codec.choice(message.scope, "scope", AbortScope::kAttempt, AbortScope::kSession);
  describe(codec, message.error);
}

template <typename Codec>
void describe(Codec& codec, Is<Forward> auto& forward) {
  codec.u32(forward.card);
  codec.require(forward.card < kForwardCardsMax, "no guest has that many network cards");
  codec.blob(forward.frame, {"frame", kForwardFrameBytesMax});
  codec.require(forward.frame.size() >= kForwardFrameBytesMin,
                "a frame that is shorter than its header");
}

template <typename Codec>
void describe(Codec& codec, Is<Lazy> auto& lazy) {
  codec.u32(lazy.round);
  codec.u32(lazy.window_ms);
  codec.require(lazy.window_ms <= kResumeWindowMsMax, "the window is longer than a day");
  codec.boolean(lazy.installed, "installed");
}

template <typename Codec>
void describe(Codec& codec, Is<LazyTerms> auto& terms) {
  codec.list(terms.granules, 8, {"list of granules", kRegionsMax}, [&](auto& granule) {
    codec.u32(granule.region.number);
    codec.u32(granule.pages);
    codec.require(granule.pages >= 2 && granule.pages <= kGranulePagesMax &&
                      (granule.pages & (granule.pages - 1)) == 0,
                  "a granule that is no power of two, or too large");
  });
}

template <typename Codec>
void describe(Codec& codec, Is<Demand> auto& demand) {
  codec.list(demand.wanted, 16, {"list of pages", kDemandsMax}, [&](auto& pages) {
    codec.u32(pages.region.number);
    codec.u64(pages.first);
    codec.u32(pages.count);
    codec.require(
        pages.first < kPageNumberMax && pages.count >= 1 && pages.count <= kGranulePagesMax,
        "pages that no region has, or too many of them");
  });
}

template <typename Codec>
void describe(Codec& codec, Is<Complete> auto& complete) {
  codec.u64(complete.pages);
  codec.u64(complete.digest);
  codec.u64(complete.faults);
  codec.u64(complete.local_faults);
  codec.u64(complete.fault_p50_us);
  codec.u64(complete.fault_p99_us);
  codec.u64(complete.fault_max_us);
  codec.list(complete.stall_us, sizeof(std::uint64_t), {"list of stalls", kStallsMax},
             [&](auto& stall) { codec.u64(stall); });
}

/// What makes a HELLO unreadable for this version, found before the rest of it is looked at: its
/// first fields are those of every version.
Status check_hello_start(std::span<const std::byte> body) {
  Reader reader("HELLO", body.first(std::min<std::size_t>(body.size(), 12)), kRecordHeaderBytes);
  auto magic = kMagic;
  std::uint16_t version_min = 0;
  std::uint16_t version_max = 0;
  reader.fixed(magic);
  reader.require(magic == kMagic, "this is not migrate's protocol");
  reader.u16(version_min);
  reader.u16(version_max);
  MIGRATE_TRY(reader.finish());
  if (version_min <= kVersionMax && version_max >= kVersionMin) return {};
  return make_error(ErrorCode::kVersionMismatch,
                    "the peer speaks versions " + std::to_string(version_min) + " to " +
                        std::to_string(version_max) + " of the protocol, this side " +
                        std::to_string(kVersionMin) + " to " + std::to_string(kVersionMax))
      .advise("run the same version of migrate on both hosts");
}

}  // namespace

std::string_view to_string(JournalState state) {
  switch (state) {
    case JournalState::kUnknown:
      return "unknown";
    case JournalState::kReceiving:
      return "receiving";
    case JournalState::kReady:
      return "ready";
    case JournalState::kStarting:
      return "starting";
    case JournalState::kStarted:
      return "started";
    case JournalState::kDiscarded:
      return "discarded";
  }
  return "unknown";
}

template <typename Message>
Status encode_record(const Message& message, std::uint64_t sequence, const Hasher& hasher,
                     std::vector<std::byte>& out) {
  out.assign(kRecordHeaderBytes, std::byte{0});
  Writer writer(to_string(Message::kType), out);
  describe(writer, message);
  MIGRATE_TRY(writer.finish());
  const std::span<const std::byte> body = std::span(out).subspan(kRecordHeaderBytes);
  const auto header = encode_header(Message::kType, static_cast<std::uint32_t>(body.size()),
                                    sequence, body, hasher);
  std::copy(header.begin(), header.end(), out.begin());
  return {};
}

template <typename Message>
Result<Message> decode(std::span<const std::byte> body) {
  if constexpr (std::is_same_v<Message, Hello>) MIGRATE_TRY(check_hello_start(body));
  Message message;
  Reader reader(to_string(Message::kType), body, kRecordHeaderBytes);
  describe(reader, message);
  MIGRATE_TRY(reader.finish());
  return message;
}

#define MIGRATE_WIRE_INSTANTIATE(Message)                                     \
  template Status encode_record(const Message&, std::uint64_t, const Hasher&, \
                                std::vector<std::byte>&);                     \
  template Result<Message> decode<Message>(std::span<const std::byte>);
MIGRATE_WIRE_MESSAGES(MIGRATE_WIRE_INSTANTIATE)
#undef MIGRATE_WIRE_INSTANTIATE

}  // namespace migrate::wire
