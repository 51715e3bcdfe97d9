// The world around the two handover machines, as the exploration sees it: a link that loses,
// delays, reorders and repeats, processes that die, a journal that outlives them, clocks, an
// arbiter, an operator. Values only: a World is copied for every step that is possible from it.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "session/handover.hpp"

namespace migrate::session::model {

// ---- Messages -------------------------------------------------------------------------------

/// A message is a bit in a set that only grows. Whatever was ever sent may arrive now, later, more
/// than once, or never: that covers every loss, every delay and every old connection.
enum class Message : std::uint8_t {
  kOffer,
  kCommit,
  kAbortAttempt,
  kAbortSession,
  kAsk,
  // From here on to the source.
  kReady,
  kStarted,
  kDiscarded,         ///< And ANSWER DISCARDED, which means the same.
  kDiscardedAttempt,  ///< See Config::attempt_discards.
  kAnswerReceiving,
  kAnswerReady,
  kAnswerStartedGone,
  kAnswerStartingGone,
  kAnswerUnknown,
  kComplete,
};
inline constexpr int kMessages = 15;
inline constexpr int kAttemptsMax = 3;
inline constexpr int kBits = kMessages * (kAttemptsMax + 1);

inline int bit_of(Message message, std::uint32_t attempt) {
  return static_cast<int>(message) * 4 + static_cast<int>(attempt);
}
inline Message message_of(int bit) { return static_cast<Message>(bit / 4); }
inline std::uint32_t attempt_of(int bit) { return static_cast<std::uint32_t>(bit % 4); }
inline bool to_target(Message message) { return message < Message::kReady; }
inline const char* name_of(Message message) {
  constexpr std::array<const char*, kMessages> kNames = {"OFFER",
                                                         "COMMIT",
                                                         "ABORT attempt",
                                                         "ABORT session",
                                                         "ASK",
                                                         "READY",
                                                         "STARTED",
                                                         "DISCARDED",
                                                         "DISCARDED attempt",
                                                         "ANSWER RECEIVING",
                                                         "ANSWER READY",
                                                         "ANSWER STARTED (gone)",
                                                         "ANSWER STARTING (gone)",
                                                         "ANSWER UNKNOWN",
                                                         "COMPLETE"};
  return kNames[static_cast<std::size_t>(message)];
}

// ---- Time, hosts ----------------------------------------------------------------------------

inline constexpr nanoseconds kLease = std::chrono::seconds(10);
/// One tick is a lease: after one a lease has run out, after two that is sure at the source.
inline constexpr std::uint8_t kTicksMax = 3;
/// The two hosts' clocks have nothing to do with each other.
inline constexpr nanoseconds kSourceClock = std::chrono::hours(1);
inline constexpr nanoseconds kTargetClock = std::chrono::seconds(7);

inline BootId boot_number(std::uint8_t number) {
  BootId boot;
  boot.bytes[0] = static_cast<std::byte>(number + 1);
  return boot;
}

/// What may happen in a world, beside what always may.
struct Config {
  std::uint32_t attempts = 2;
  bool arbiter = false;
  bool lazy = false;   ///< Attempts are: memory follows after the start.
  bool locks = false;  ///< The guest has disks whose locks exclude one side by themselves.
  bool attempt_discards =
      false;  ///< DISCARDED of an attempt arrives: changes nothing, costs states.
  bool source_dies = true;
  bool target_dies = true;
  bool host_reboots = true;
  bool faults = true;  ///< Journal writes and guest starts fail.
  bool force = true;   ///< The operator forces, where what he vouches for is true.
};

/// What must never be seen.
enum class Violation : std::uint8_t {
  kNone,
  kTwoRun,
  kSplitHistory,  ///< Resumed at the source after it ran at the target, without an operator, or
                  ///< though the source knew.
  kStaleStart,    ///< Started from an attempt after which the source's guest went on.
  kStartUnrecorded,
  kStartWithoutLocks,
  kLateStarting,        ///< STARTING recorded by a target that knew its lease was over.
  kStartingForgotten,   ///< STARTING or STARTED became something else than it may.
  kJournalDisagrees,    ///< A living, idle target would answer something else.
  kDiscardedWithLocks,  ///< DISCARDED was sent before the locks were let go.
  kPagesLost,           ///< The target's guest misses pages, the source has dropped them, nobody
                        ///< crashed and no operator said so.
  kNobodyRuns,          ///< All is over, nothing crashed, nobody forced, and nobody runs.
  kEndNotFinal,         ///< Something that arrives late changes how it ended.
  kNoExit,
};
inline const char* name_of(Violation violation) {
  constexpr std::array<const char*, 14> kNames = {
      "none",
      "two guests run",
      "the source resumed a guest that had run at the target",
      "the target started from an abandoned attempt",
      "the target started without a record",
      "the target started without its locks",
      "STARTING was recorded after the lease",
      "STARTING was forgotten",
      "the journal disagrees with the target",
      "DISCARDED was sent while locks were held",
      "the source dropped pages that the target's guest misses",
      "nobody runs",
      "a late message changed how it ended",
      "no way out"};
  return kNames[static_cast<std::size_t>(violation)];
}

/// One thing that happens.
struct Step {
  enum class Kind : std::uint8_t {
    kSourceEvent,     ///< argument: SourceEvent::Kind; force.
    kSourceReceives,  ///< argument: message bit.
    kSourcePerforms,  ///< The next action; argument: Outcome.
    kSourceDies,
    kTargetEvent,   ///< argument: TargetEvent::Kind.
    kTargetLoaded,  ///< argument: attempt.
    kTargetLoadFails,
    kTargetReceives,  ///< argument: message bit.
    kTargetPerforms,  ///< The next action; argument: Outcome.
    kTargetDies,
    kHostReboots,    ///< argument: what the journal says afterwards.
    kListenerAsked,  ///< A listener consults the journal. argument: 1 when it cannot find it.
    kStrayCommit,    ///< A COMMIT the source never sent, of an attempt the target left. argument.
    kTick,
    kPagesArrive,    ///< The last page that the target's guest missed is there.
    kTargetTells,    ///< The target says COMPLETE, for the first time or on a new link.
    kSourceReopens,  ///< A source that serves has opened the lost link again, and asks.
  };
  enum Outcome : std::uint8_t { kWorks, kFails, kUnknown, kUnknownButDone };

  Kind kind;
  std::uint8_t argument = 0;
  bool force = false;
  /// Part of a fair world: no crash, no fault, nothing lost for ever. Exits are made of these.
  bool fair = true;
};

/// Exact, and small enough to keep one for every state.
using Key = std::array<std::uint8_t, 96>;

class KeyWriter {
 public:
  explicit KeyWriter(Key& key) : key_(key) {}
  void byte(std::uint64_t value) {
    MIGRATE_CHECK(value < 256 && size_ < key_.size());
    key_[size_++] = static_cast<std::uint8_t>(value);
  }
  template <typename T>
  void field(const T& value) {
    if constexpr (std::is_same_v<T, nanoseconds>) {
      // Whole seconds in two bytes.
      const auto seconds = static_cast<std::uint64_t>(
          std::chrono::duration_cast<std::chrono::seconds>(value).count());
      byte(seconds >> 8), byte(seconds & 0xff);
    } else if constexpr (std::is_same_v<T, BootId>) {
      byte(std::to_integer<std::uint64_t>(value.bytes[0]));
    } else {
      byte(static_cast<std::uint64_t>(value));
    }
  }

 private:
  Key& key_;
  std::size_t size_ = 0;
};

}  // namespace migrate::session::model
