// Messages: every record body but PAGES and SECTION_DATA, as structs.
//
//   MIGRATE_TRY(encode_record(Commit{attempt}, sequence++, hasher, buffer));  // header and body
//   MIGRATE_ASSIGN(auto ready, decode<Ready>(body));                          // after
//   check_record()
//
// Decoding refuses what is short, too long, out of bounds, not a value of its enumeration, or
// followed by further bytes: kProtocol with the byte's offset in the record.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/memory.hpp"
#include "migrate/options.hpp"
#include "migrate/result.hpp"
#include "wire/ids.hpp"
#include "wire/limits.hpp"
#include "wire/pages.hpp"
#include "wire/record.hpp"

namespace migrate::wire {

/// Versions of the protocol this code speaks.
inline constexpr std::uint16_t kVersionMin = 1;
inline constexpr std::uint16_t kVersionMax = 1;

/// Feature bits: offered in HELLO, of which WELCOME gives back those in force. Unknown bits of the
/// peer's are ignored.
inline constexpr std::uint64_t kFeatureVerifyFull = std::uint64_t{1} << 0;
inline constexpr std::uint64_t kFeatureResume = std::uint64_t{1} << 1;
inline constexpr std::uint64_t kFeatureForward = std::uint64_t{1} << 2;
inline constexpr std::uint64_t kFeatureAttempts = std::uint64_t{1} << 3;
inline constexpr std::uint64_t kFeaturePostcopy = std::uint64_t{1} << 4;
inline constexpr std::uint64_t kFeaturesKnown =
    kFeatureVerifyFull | kFeatureResume | kFeatureForward | kFeatureAttempts | kFeaturePostcopy;

/// In HELLO what the source would use, in WELCOME what it may use (no more than it asked for).
struct SessionLimits {
  std::uint32_t batch_entries = kBatchEntriesMax;
  std::uint32_t section_chunk_bytes = kSectionChunkBytesMax;
  std::uint64_t state_bytes = 0;  ///< All sections of an attempt together; 0 in HELLO: not known.
  friend bool operator==(const SessionLimits&, const SessionLimits&) = default;
};

/// Source to target, opens the control lane. The regions of `guest` get the handles 0, 1, 2, ... in
/// their order.
struct Hello {
  static constexpr RecordType kType = RecordType::kHello;
  std::uint16_t version_min = kVersionMin;
  std::uint16_t version_max = kVersionMax;
  std::uint64_t features = kFeaturesKnown;
  SessionId session;
  std::uint32_t page_size = kPageSize;
  std::uint16_t bulk_lanes = 1;  ///< Wanted.
  std::uint32_t encodings = kEncodingsBase;
  std::uint32_t codecs = kCodecsBase;
  SessionLimits limits;
  SessionRandom random;
  BootId boot;
  Strategy strategy = Strategy::kAuto;  ///< For the target's report.
  VerifyMode verify = VerifyMode::kDigest;
  std::uint64_t max_downtime_us = 0;  ///< For the target's report.
  std::string host;                   ///< The source's host name, for messages.
  GuestDescription guest;
};

/// Target to source, accepts HELLO.
struct Welcome {
  static constexpr RecordType kType = RecordType::kWelcome;
  std::uint16_t version = kVersionMax;
  std::uint64_t features = 0;
  std::uint16_t bulk_lanes = 1;
  std::uint32_t encodings = kEncodingsBase;
  std::uint32_t codecs = kCodecsBase;
  SessionLimits limits;
  SessionRandom random;
  JoinSecret secret;
  BootId boot;
  std::uint64_t load_us = 0;  ///< What the target expects loading the state to take; 0: not known.
  std::string host;
};

enum class LaneRole : std::uint8_t { kBulk = 1, kUrgent = 2 };

/// Source to target, opens a further lane.
struct Join {
  static constexpr RecordType kType = RecordType::kJoin;
  SessionId session;
  LaneId lane;
  LaneRole role = LaneRole::kBulk;
  JoinSecret proof;
};

struct Joined {
  static constexpr RecordType kType = RecordType::kJoined;
  LaneId lane;
};

/// Source to target, opens a connection after the link was lost: what became of the guest?
struct Ask {
  static constexpr RecordType kType = RecordType::kAsk;
  SessionId session;
  JoinSecret proof;
};

/// What a target's journal says.
enum class JournalState : std::uint8_t {
  kUnknown = 0,  ///< No record: counts as no answer.
  kReceiving = 1,
  kReady = 2,
  kStarting = 3,
  kStarted = 4,
  kDiscarded = 5,
};
[[nodiscard]] std::string_view to_string(JournalState state);

struct Answer {
  static constexpr RecordType kType = RecordType::kAnswer;
  JournalState state = JournalState::kUnknown;
  std::uint32_t attempt = 0;
  BootId boot;                ///< Of the answering host, now.
  bool process_lives = true;  ///< False: from the journal of a process that is gone.
};

/// Either side, any lane, any time: the connection's last record. A code, phase or side that the
/// reader does not know becomes kInternal or kNone; too long texts are clipped when written;
/// control characters and bytes that are not UTF-8 become '?'.
struct ErrorRecord {
  static constexpr RecordType kType = RecordType::kError;
  Error error;
};

struct Ping {
  static constexpr RecordType kType = RecordType::kPing;
  std::uint64_t nonce = 0;
  std::uint64_t time_ns = 0;  ///< The sender's clock; comes back as it was.
};
struct Pong {
  static constexpr RecordType kType = RecordType::kPong;
  std::uint64_t nonce = 0;
  std::uint64_t time_ns = 0;
};

/// Either side, control lane: nothing but that the sender is there. Optional: a reader that does
/// not know it skips it.
struct Alive {
  static constexpr RecordType kType = RecordType::kAlive;
};

/// Source to target, control lane: regions that came and went. Takes effect at the control lane's
/// next BARRIER, when all lanes have reached it; pages of new ones begin in the round after it.
struct Regions {
  static constexpr RecordType kType = RecordType::kRegions;
  RegionHandle first_handle;  ///< Of `added`, which are numbered on from it.
  std::vector<Region> added;
  std::vector<RegionHandle> removed;
};

/// Source to target, on every bulk lane and then on the control lane: the round ends here.
struct Barrier {
  static constexpr RecordType kType = RecordType::kBarrier;
  std::uint32_t round = 0;
  bool final = false;       ///< The last round of this attempt: memory can no longer change.
  std::uint64_t pages = 0;  ///< Carried by this lane in this round; on the control lane by all.
  /// Sum of PageDigest::change() of this lane's pages in this round; on the control lane of all.
  std::uint64_t digest_change = 0;
};

/// Target to source, control lane: the round is applied, its set may be forgotten.
struct BarrierAck {
  static constexpr RecordType kType = RecordType::kBarrierAck;
  std::uint32_t round = 0;
  std::uint64_t digest = 0;  ///< Of the target's whole memory, changes of REGIONS included.
};

/// Source to target, after WELCOME: how long it will try to come back after a lost link.
struct ResumeTerms {
  static constexpr RecordType kType = RecordType::kResumeTerms;
  std::uint32_t window_ms = 0;
};

/// Source to target, opens a new control lane after the link was lost in the rounds.
struct Resume {
  static constexpr RecordType kType = RecordType::kResume;
  SessionId session;
  JoinSecret proof;
  std::uint32_t round = 0;  ///< Its open round: the first that was not acknowledged.
};

/// Target to source: where rounds go on.
struct Resumed {
  static constexpr RecordType kType = RecordType::kResumed;
  std::uint32_t round = 0;   ///< Its open round: RESUME's, or one more.
  std::uint64_t digest = 0;  ///< As acknowledged after the round before.
};

/// Source to target, after RESUMED: pages that may have been sent in the open round.
struct Void {
  static constexpr RecordType kType = RecordType::kVoid;
  RegionHandle region;
  std::uint64_t first = 0;           ///< Page of the region, a multiple of 64.
  std::vector<std::uint64_t> words;  ///< At most kVoidWordsMax; bits beyond the region are clear.
};
struct VoidEnd {
  static constexpr RecordType kType = RecordType::kVoidEnd;
  std::uint64_t pages = 0;   ///< Named by the VOID records since RESUMED or DISCARDED.
  std::uint64_t digest = 0;  ///< Of all memory, void pages counting nothing.
};
/// Target to source: these pages are void here too.
struct Voided {
  static constexpr RecordType kType = RecordType::kVoided;
  std::uint64_t digest = 0;
};

struct SectionBegin {
  static constexpr RecordType kType = RecordType::kSectionBegin;
  SectionInfo info;
};
struct SectionEnd {
  static constexpr RecordType kType = RecordType::kSectionEnd;
  std::uint64_t bytes = 0;  ///< Of the section, all SECTION_DATA together.
};
struct StateEnd {
  static constexpr RecordType kType = RecordType::kStateEnd;
  std::uint32_t sections = 0;
  std::uint64_t bytes = 0;  ///< Of all sections of the attempt.
};

/// Source to target: everything of this attempt is sent.
struct Offer {
  static constexpr RecordType kType = RecordType::kOffer;
  std::uint32_t attempt = 0;
  RunState run_state = RunState::kRunning;
  bool has_full_digest = false;
  std::uint64_t digest = 0;
  std::uint64_t full_digest = 0;  ///< Of memory hashed anew; 0 unless has_full_digest.
  std::uint64_t total_pages = 0;  ///< Of all regions.
};

/// Target to source: state loaded, locks held, digest equal.
struct Ready {
  static constexpr RecordType kType = RecordType::kReady;
  std::uint32_t attempt = 0;
  std::uint64_t lease_ns = 0;
  std::uint64_t digest = 0;
  std::uint64_t final_apply_us = 0;  ///< Waiting for and applying the final round.
  std::uint64_t verify_us = 0;
  std::uint64_t state_load_us = 0;
  std::uint64_t acquire_us = 0;
};

struct Commit {
  static constexpr RecordType kType = RecordType::kCommit;
  std::uint32_t attempt = 0;
};
struct Started {
  static constexpr RecordType kType = RecordType::kStarted;
  std::uint32_t attempt = 0;
  std::uint64_t start_us = 0;
};
/// The source's last word: it has let the guest go.
struct Released {
  static constexpr RecordType kType = RecordType::kReleased;
  std::uint32_t attempt = 0;
};

/// What ABORT and DISCARDED end.
enum class AbortScope : std::uint8_t {
  kAttempt = 1,  ///< Rounds go on, another attempt may come.
  kSession = 2,
};
/// Source to target: not this time.
struct Abort {
  static constexpr RecordType kType = RecordType::kAbort;
  std::uint32_t attempt = 0;
  AbortScope scope = AbortScope::kSession;
  Error error;
};
/// Target to source: the attempt is dropped, its locks are let go, and it can never start. ABORT of
/// the session is not answered; that of an attempt is, by this, and with kFeatureAttempts by VOID
/// and VOID_END after it.
struct Discarded {
  static constexpr RecordType kType = RecordType::kDiscarded;
  std::uint32_t attempt = 0;
  AbortScope scope = AbortScope::kSession;
  Error error;
};

/// Source to target, after COMMIT, with kFeatureForward: a frame that came to the guest there.
struct Forward {
  static constexpr RecordType kType = RecordType::kForward;
  std::uint32_t card = 0;        ///< Of the guest's, from 0; less than kForwardCardsMax.
  std::vector<std::byte> frame;  ///< Ethernet, without its checksum.
};

/// Source to target, with kFeaturePostcopy: after the last round on every bulk lane, and then on
/// the control lane. What has not come by then comes lazily: pages named by VOID records, of which
/// there are two lists, one before the guest is paused and one after the end of its state.
struct Lazy {
  static constexpr RecordType kType = RecordType::kLazy;
  std::uint32_t round = 0;      ///< Of all PAGES that follow.
  std::uint32_t window_ms = 0;  ///< How long the source tries to come back after a lost link.
  bool installed = false;       ///< It wants INSTALLED, to give memory back early.
};

/// Target to source, answers LAZY: regions that are filled in units of more than a page.
struct LazyTerms {
  static constexpr RecordType kType = RecordType::kLazyTerms;
  struct Granule {
    RegionHandle region;
    std::uint32_t pages =
        1;  ///< A power of two, 2 to kGranulePagesMax; units begin at the region's.
    friend bool operator==(const Granule&, const Granule&) = default;
  };
  std::vector<Granule> granules;
};

/// Target to source, urgent lane: the guest waits for these pages.
struct Demand {
  static constexpr RecordType kType = RecordType::kDemand;
  struct Pages {
    RegionHandle region;
    std::uint64_t first = 0;  ///< Page of the region.
    std::uint32_t count = 1;  ///< Up to kGranulePagesMax.
    friend bool operator==(const Pages&, const Pages&) = default;
  };
  std::vector<Pages> wanted;
};

/// Target to source, control lane: pages that are in place with the hash that came with them, and
/// were not named before.
struct Installed {
  static constexpr RecordType kType = RecordType::kInstalled;
  RegionHandle region;
  std::uint64_t first = 0;           ///< Page of the region, a multiple of 64.
  std::vector<std::uint64_t> words;  ///< At most kVoidWordsMax.
};

/// Target to source, control lane: no page is missing. Answered by RELEASED. All but the digest is
/// for the source's report; times are microseconds.
struct Complete {
  static constexpr RecordType kType = RecordType::kComplete;
  std::uint64_t pages = 0;   ///< That came lazily.
  std::uint64_t digest = 0;  ///< Of all memory as it came.
  std::uint64_t faults = 0;
  std::uint64_t local_faults = 0;  ///< Of pages that are zero, and needed nobody.
  std::uint64_t fault_p50_us = 0;
  std::uint64_t fault_p99_us = 0;
  std::uint64_t fault_max_us = 0;
  std::vector<std::uint64_t> stall_us;  ///< By vCPU, at most kStallsMax; empty: not known.
};

/// Every struct above that is a body.
// clang-format off
#define MIGRATE_WIRE_MESSAGES(X)                                          \
  X(Hello) X(Welcome) X(Join) X(Joined) X(Ask) X(Answer) X(ErrorRecord)   \
  X(Ping) X(Pong) X(Alive) X(Regions) X(Barrier) X(BarrierAck)            \
  X(ResumeTerms) X(Resume) X(Resumed) X(Void) X(VoidEnd) X(Voided)        \
  X(SectionBegin) X(SectionEnd) X(StateEnd)                               \
  X(Offer) X(Ready) X(Commit) X(Started) X(Released) X(Abort) X(Discarded) \
  X(Forward) X(Lazy) X(LazyTerms) X(Demand) X(Installed) X(Complete)
// clang-format on

/// One record, header and body, in `out` (what was there is replaced, its memory kept). Fails with
/// kInvalidArgument when a text or list is beyond limits.hpp. Keyed types need a keyed hasher.
template <typename Message>
[[nodiscard]] Status encode_record(const Message& message, std::uint64_t sequence,
                                   const Hasher& hasher, std::vector<std::byte>& out);

/// The body of a record of type Message::kType.
template <typename Message>
[[nodiscard]] Result<Message> decode(std::span<const std::byte> body);

}  // namespace migrate::wire
