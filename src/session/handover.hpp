// The handover: who may run the guest, decided by one pure state machine on each side.
//
// A machine takes an event and gives back what to do, in order. It does no I/O and reads no clock:
// what time it is comes in with the event. Machines are small values: copy, compare and hash them.
// tests/session/handover explores every interleaving of these two classes; docs/handover.md has the
// diagrams and the reasons.
//
// How to drive one: feed an event, perform all actions in order, then feed the next event. Actions
// with a result (each says which) are performed at once and their result is the next event. An
// action that fails:
//  - a kSend...: go on with the list; then feed kLinkLost.
//  - kPauseGuest, kRelinquish: skip the rest of the list, feed kFailure.
//  - kRecord of kReady or kStarting: skip the rest of the list, feed kRecordFailed. A kRecord of
//    another state, kYield: say so in the log and go on; the machine's own answers stay right.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>

#include "migrate/result.hpp"
#include "wire/messages.hpp"

namespace migrate::session {

using std::chrono::nanoseconds;

using wire::AbortScope;
using wire::BootId;

/// What the target's journal says of a session. Numbers are pinned: they stand in the journal, and
/// all but kWithdrawn are those of wire::JournalState.
enum class RecordState : std::uint8_t {
  kUnknown = 0,    ///< No (readable) record: counts as no answer.
  kReceiving = 1,  ///< Nothing may start: no attempt is complete, or the last one was abandoned.
  kReady = 2,      ///< Waits for COMMIT of its attempt, bound by a lease.
  kStarting = 3,   ///< A vCPU may have run. Never becomes kDiscarded.
  kStarted = 4,    ///< The guest ran here.
  kDiscarded = 5,  ///< Nothing ran and nothing will.
  kWithdrawn = 6,  ///< The process that recorded kStarting vouches: nothing ran, nothing will.
};
[[nodiscard]] std::string_view to_string(RecordState state);

/// The body of ANSWER.
struct Answer {
  RecordState state = RecordState::kUnknown;  ///< Never kWithdrawn: that is answered as kDiscarded.
  std::uint32_t attempt = 0;
  BootId boot{};              ///< Of the answering host, now.
  bool process_lives = true;  ///< False: answered from the journal of a process that is gone.

  friend bool operator==(const Answer&, const Answer&) = default;
};

/// At most four actions, in the order in which to perform them.
template <typename Action>
class ActionList {
 public:
  static constexpr std::size_t kCapacity = 4;

  ActionList() = default;
  ActionList(std::initializer_list<Action> actions) {  // NOLINT: implicit
    for (const Action& action : actions) push(action);
  }
  void push(const Action& action) {
    MIGRATE_CHECK(size_ < kCapacity);
    items_[size_++] = action;
  }
  [[nodiscard]] const Action* begin() const { return items_.data(); }
  [[nodiscard]] const Action* end() const { return items_.data() + size_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] const Action& operator[](std::size_t i) const { return items_[i]; }

  friend bool operator==(const ActionList& a, const ActionList& b) {
    if (a.size_ != b.size_) return false;
    for (std::size_t i = 0; i < a.size_; ++i) {
      if (!(a.items_[i] == b.items_[i])) return false;
    }
    return true;
  }

 private:
  std::array<Action, kCapacity> items_{};
  std::size_t size_ = 0;
};

// ---- Source ---------------------------------------------------------------------------------

enum class SourceState : std::uint8_t {
  kRunning,     ///< The guest is here, as it was; an attempt may begin.
  kPaused,      ///< An attempt: the guest stands, its last pages and state are on their way.
  kOffered,     ///< All is sent, locks are let go; waits for READY.
  kCommitted,   ///< COMMIT is sent: the target may start. No way back but the target's word.
  kAsking,      ///< COMMIT was sent and the link is lost: reconnects and asks.
  kServing,     ///< Post-copy: the guest runs at the target and its missing pages are only here: no
                ///< way back. Kept until the target has them all.
  kUncertain,   ///< No answer in the ask window: paused until an operator resolves it.
  kClaiming,    ///< Asks the arbiter whether the guest may run on here.
  kReclaiming,  ///< Takes the locks back before it resumes.
  kStuck,       ///< The guest is ours but cannot be resumed (locks): paused, see kOperatorResume.
  kReleased,    ///< Final: the guest is the target's.
  kKept,        ///< Final: the guest is here, as it was, and this session is over.
};
[[nodiscard]] std::string_view to_string(SourceState state);

/// What happened at the source. Fields beside `kind` and `now` are used where a kind names them.
struct SourceEvent {
  enum class Kind : std::uint8_t {
    kBegin,            ///< Begin an attempt (in kRunning).
    kOfferable,        ///< The last pages, the state and the digest are sent: lazy.
    kReady,            ///< READY: attempt, lease. Feed it when own last checks have passed.
    kStarted,          ///< STARTED: attempt.
    kDiscarded,        ///< DISCARDED: attempt, scope.
    kAnswer,           ///< ANSWER: answer.
    kLinkLost,         ///< The control channel failed, or the peer is silent for too long.
    kConnected,        ///< kConnect succeeded: a new control channel is there.
    kAskWindowOver,    ///< Counted from the first kAsking after COMMIT or an operator's event.
    kComplete,         ///< COMPLETE has come and was checked: the target has all pages.
    kServeWindowOver,  ///< In kServing the link was lost for longer than it is waited for.
    kHardDeadline,     ///< READY is not there in time: abandon the attempt, go on with pre-copy.
    kCancel,           ///< A user or the host gives up.
    kFailure,          ///< Anything else failed here or was reported by the peer.
    kArbiterGranted,   ///< Results of kAskArbiter.
    kArbiterDenied,
    kArbiterUnknown,
    kReclaimed,  ///< Results of kReclaim.
    kReclaimFailed,
    kResumeFailed,     ///< kResumeGuest failed.
    kOperatorResume,   ///< `migrate resolve --resume`: force.
    kOperatorRelease,  ///< `migrate resolve --release`: force.
  };

  Kind kind = Kind::kFailure;
  nanoseconds now{};  ///< CLOCK_BOOTTIME here.
  std::uint32_t attempt = 0;
  nanoseconds lease{};
  Answer answer{};
  AbortScope scope = AbortScope::kSession;
  bool force = false;
  bool lazy = false;  ///< Of kOfferable: some of this attempt's memory follows after the start.
};
[[nodiscard]] std::string_view to_string(SourceEvent::Kind kind);

/// Why the source refuses a request. to_text() has words with a remedy for the operator.
enum class Refusal : std::uint8_t {
  kNone,
  kTooLate,         ///< Cancel after COMMIT.
  kNothingToDo,     ///< Resolve, but the handover is not uncertain.
  kRunsThere,       ///< Resume, but the target has started the guest.
  kLeaseMayHold,    ///< Resume, no answer, and the target's lease may not have run out.
  kNeedsForce,      ///< No answer: the operator must vouch for the target.
  kOnlyCopyHere,    ///< Release, but the target does not have the guest: the only copy is here.
  kTargetOwns,      ///< Resume, but the arbiter says that the target owns the guest.
  kArbiterUnknown,  ///< Resume, but the arbiter cannot be asked.
  kPagesOwed,       ///< Release, but the target may need pages that are only here.
};
[[nodiscard]] std::string_view to_text(Refusal refusal);

/// Why a handover is uncertain.
enum class Doubt : std::uint8_t {
  kNone,
  kNoAnswer,        ///< Nobody answered in the ask window.
  kRebooted,        ///< The target's host was restarted: the guest is not there but may have run.
  kTargetOwns,      ///< The arbiter says that the target owns it.
  kArbiterUnknown,  ///< The arbiter could not be asked.
  kDiscarded,       ///< The target has discarded it, but an operator asked to release it.
  kPagesOwed,       ///< It was started at the target, which may need pages that are only here.
};
[[nodiscard]] std::string_view to_text(Doubt doubt);

struct SourceAction {
  enum class Kind : std::uint8_t {
    kPauseGuest,  ///< Then sync, save and send; then kOfferable.
    kRelinquish,
    kSendOffer,   ///< attempt.
    kSendCommit,  ///< attempt.
    kSendAbort,   ///< attempt, scope. Must not hold up what follows: bound it, or skip it.
    kConnect,     ///< Reconnect to any listener of that host, with back-off, until kConnected or
                  ///< kAskWindowOver. Drops the old channel.
    kSendAsk,
    kAskArbiter,   ///< Arbiter::acquire for the source -> kArbiter...
    kReclaim,      ///< -> kReclaimed or kReclaimFailed. Worth retrying for a bounded time: a target
                   ///< lets go of its locks on ABORT, or when its lease has run out.
    kResumeGuest,  ///< Restore the run state from before kBegin -> kResumeFailed on failure only.
    kReleaseGuest,
    kSendReleased,  ///< attempt.
    kRefuse,        ///< refusal.
  };

  Kind kind = Kind::kRefuse;
  std::uint32_t attempt = 0;
  AbortScope scope = AbortScope::kSession;
  Refusal refusal = Refusal::kNone;

  friend bool operator==(const SourceAction&, const SourceAction&) = default;
};
[[nodiscard]] std::string_view to_string(SourceAction::Kind kind);
using SourceActions = ActionList<SourceAction>;

// ---- Target ---------------------------------------------------------------------------------

enum class TargetState : std::uint8_t {
  kReceiving,  ///< Pages arrive; nothing may start.
  kLoading,    ///< OFFER of `attempt()`: state is being loaded.
  kReady,      ///< Loaded, locks held, digest equal; bound by the lease.
  kClaiming,   ///< COMMIT came in time: asks the arbiter. Its grant outlives the lease.
  kStarting,   ///< STARTING is recorded; the last look at the lease is due.
  kLaunched,   ///< vCPUs may run.
  kStarted,    ///< Final: the guest runs here.
  kDiscarded,  ///< Final: dropped, nothing ran.
  kWithdrawn,  ///< Final: as kDiscarded, after STARTING was recorded.
  kLost,       ///< Final: the start failed and a vCPU may have run.
};
[[nodiscard]] std::string_view to_string(TargetState state);

struct TargetEvent {
  enum class Kind : std::uint8_t {
    kOffer,           ///< OFFER: attempt; all its pages and state are here.
    kLoaded,          ///< Result of kLoad: attempt; state loaded, digest equal, locks held.
    kLoadFailed,      ///< Result of kLoad: attempt; a reason to give the session up.
    kCommit,          ///< COMMIT: attempt.
    kAbort,           ///< ABORT: attempt, scope.
    kAsk,             ///< ASK, on whatever connection.
    kLinkLost,        ///< The control channel failed, or the peer is silent for too long.
    kTick,            ///< deadline() has come.
    kCancel,          ///< The host gives up. Without effect after COMMIT: see committed().
    kFailure,         ///< Anything else failed here or was reported by the peer.
    kRecordFailed,    ///< kRecord of kReady or kStarting failed.
    kArbiterGranted,  ///< Results of kAskArbiter.
    kArbiterDenied,
    kArbiterUnknown,
    kStartCheck,    ///< Result of kCheckStart: now, read at that moment.
    kGuestStarted,  ///< Results of kStartGuest.
    kStartFailed,   ///< No vCPU has run.
    kStartUnsure,   ///< It failed and a vCPU may have run.
  };

  Kind kind = Kind::kFailure;
  nanoseconds now{};  ///< CLOCK_BOOTTIME here; needed with every kind.
  std::uint32_t attempt = 0;
  AbortScope scope = AbortScope::kSession;
};
[[nodiscard]] std::string_view to_string(TargetEvent::Kind kind);

struct TargetAction {
  enum class Kind : std::uint8_t {
    kLoad,         ///< attempt -> kLoaded or kLoadFailed.
    kRecord,       ///< state, attempt, lease_end: Journal::record.
    kSendReady,    ///< attempt, lease.
    kAskArbiter,   ///< Arbiter::acquire for the target -> kArbiter...; when `repeat`, after a pause
                   ///< in which other events are served.
    kCheckStart,   ///< -> kStartCheck with the time read now.
    kStartGuest,   ///< At once -> kGuestStarted, kStartFailed or kStartUnsure.
    kSendStarted,  ///< attempt.
    kYield,        ///< Let go of the locks.
    kSendDiscarded,  ///< attempt, scope.
    kSendAnswer,     ///< answer.
    kDiscardGuest,
  };

  Kind kind = Kind::kDiscardGuest;
  std::uint32_t attempt = 0;
  RecordState state = RecordState::kUnknown;
  nanoseconds lease{};
  nanoseconds lease_end{};  ///< CLOCK_BOOTTIME here.
  bool repeat = false;
  AbortScope scope = AbortScope::kSession;
  Answer answer{};

  friend bool operator==(const TargetAction&, const TargetAction&) = default;
};
[[nodiscard]] std::string_view to_string(TargetAction::Kind kind);
using TargetActions = ActionList<TargetAction>;

// ---- The machines ---------------------------------------------------------------------------

/// The rules that keep the guest from running twice or not at all. Named, so that the exploration
/// can take each away and see that it is missed.
enum class Rule : std::uint8_t {
  kReadyOfThisAttempt,
  kDiscardedForGood,
  kCommitOfThisAttempt,
  kCommitInLease,
  kStartInLease,
  kStartingRecordedFirst,
  kAbandonedIsRecorded,
  kNoCancelAfterCommit,
  kAskBeforeResume,
  kUnknownIsNoAnswer,
  kRebootIsForOperator,
  kStartedIsFinal,
  kForceAfterLease,
  kForceWithoutAnswer,
  kArbiterBeforeStart,
  kArbiterBeforeResume,
  kArbiterUnknownIsNo,
  kReadyIsNotStarted,
  kServeUntilComplete,
  kOwedNeedsForce,
  kServedIsNotOurs,
  // Of the journal, see judge().
  kLivingOwnerAnswers,
  kStartingIsKept,
  kOldReadyIsUnknown,
};
inline constexpr int kRuleCount = 24;

/// What production runs: every rule, always, known at compile time.
struct AllRules {
  static constexpr bool enforces(Rule) { return true; }
};

/// What may be answered from a journal's record.
struct Verdict {
  bool hand_over = false;  ///< Nothing: its process lives, and has not come to an end yet.
  RecordState record = RecordState::kUnknown;  ///< What the record must say from now on.
  RecordState answer = RecordState::kUnknown;
};

/// `owner_lives`: the process that writes the record holds its lock. When it does not, the caller
/// must hold it, until the record says `record`. What a living process recorded as its end stands,
/// and is answered without troubling it. `this_boot`: the record was written since the host
/// was started.
template <typename Rules>
[[nodiscard]] Verdict judge(RecordState recorded, bool owner_lives, bool this_boot) {
  const bool undecided = recorded != RecordState::kStarted && recorded != RecordState::kDiscarded &&
                         recorded != RecordState::kWithdrawn;
  if (undecided && owner_lives && Rules::enforces(Rule::kLivingOwnerAnswers)) {
    return {true, recorded, recorded};
  }
  const Verdict discarded{false, RecordState::kDiscarded, RecordState::kDiscarded};
  switch (recorded) {
    case RecordState::kReceiving:
    case RecordState::kReady:
      // A folder that is no tmpfs may bring an old record back and have lost a later one.
      if (!this_boot && Rules::enforces(Rule::kOldReadyIsUnknown)) {
        return {false, recorded, RecordState::kUnknown};
      }
      return discarded;  // The guest's memory went with the process, before it could start.
    case RecordState::kStarting:
      if (!Rules::enforces(Rule::kStartingIsKept)) return discarded;
      break;
    case RecordState::kWithdrawn:
      return {false, recorded, RecordState::kDiscarded};
    case RecordState::kUnknown:
    case RecordState::kStarted:
    case RecordState::kDiscarded:
      break;
  }
  return {false, recorded, recorded};
}

/// Whether a record may say `next` after `now`. From kStarting on the guest may have run.
[[nodiscard]] bool may_follow(RecordState now, RecordState next);

/// The source's side of one session. `Rules` is AllRules but in the exploration's mutants.
template <typename Rules>
class BasicSourceHandover {
 public:
  /// `target_boot`: the target host's boot id, from HELLO. `has_arbiter`: both sides were given
  /// one.
  BasicSourceHandover(BootId target_boot, bool has_arbiter)
      : target_boot_(target_boot), has_arbiter_(has_arbiter) {}

  SourceActions on(const SourceEvent& event);

  [[nodiscard]] SourceState state() const { return state_; }
  /// Number of the latest attempt; 0 before the first.
  [[nodiscard]] std::uint32_t attempt() const { return attempt_; }
  /// COMMIT was sent: cancelling is refused from then on.
  [[nodiscard]] bool committed() const { return committed_; }
  [[nodiscard]] bool ended() const {
    return state_ == SourceState::kReleased || state_ == SourceState::kKept;
  }
  /// With kReleased: the guest was started at the target and is gone there.
  [[nodiscard]] bool lost() const { return lost_; }
  [[nodiscard]] Doubt doubt() const { return doubt_; }
  /// The guest was started at the target, and has not said yet that it has all its pages.
  [[nodiscard]] bool owes_pages() const {
    return state_ == SourceState::kServing ||
           (state_ == SourceState::kUncertain && doubt_ == Doubt::kPagesOwed);
  }
  /// From when on the lease of the committed attempt has surely run out, on this host's
  /// CLOCK_BOOTTIME; nullopt before COMMIT.
  [[nodiscard]] std::optional<nanoseconds> lease_surely_over_at() const;

  friend bool operator==(const BasicSourceHandover&, const BasicSourceHandover&) = default;
  /// Calls f with every field's value, for hashes and keys of explored states.
  template <typename F>
  void each_field(F&& f) const {
    f(target_boot_), f(has_arbiter_), f(state_), f(next_), f(attempt_), f(committed_);
    f(relinquished_), f(discarded_), f(rebooted_), f(target_owns_), f(lost_), f(wish_), f(force_);
    f(doubt_), f(ready_at_), f(lease_), f(lazy_);
  }

 private:
  enum class Wish : std::uint8_t { kNone, kResume, kRelease };

  static constexpr bool enforces(Rule rule) { return Rules::enforces(rule); }
  static constexpr bool demand(Rule rule, bool condition) { return condition || !enforces(rule); }

  SourceActions begin();
  SourceActions offer(bool lazy);
  SourceActions ready(const SourceEvent& event);
  SourceActions started(std::uint32_t attempt, bool lives);
  SourceActions serve();
  SourceActions release(bool lives);
  SourceActions discarded(const SourceEvent& event);
  SourceActions target_dropped_it();
  SourceActions answered(const SourceEvent& event);
  SourceActions target_is_ready();
  SourceActions no_record();
  SourceActions link_lost();
  SourceActions cancel();
  SourceActions serve_window_over();
  SourceActions no_answer(const SourceEvent& event);
  SourceActions no_answer_to_resume(nanoseconds now);
  SourceActions abandon(AbortScope scope, bool tell);
  SourceActions claim_or_resume();
  SourceActions arbiter_denied();
  SourceActions arbiter_unknown();
  SourceActions reclaim_or_resume();
  SourceActions resume();
  SourceActions stuck();
  SourceActions operator_resume(bool force);
  SourceActions operator_release(bool force);
  SourceActions ask(Wish wish, bool force);
  SourceActions stay(Doubt doubt, Refusal refusal);
  [[nodiscard]] bool awaits_word() const;
  [[nodiscard]] SourceAction act(SourceAction::Kind kind) const;
  [[nodiscard]] static SourceAction refuse(Refusal refusal);

  BootId target_boot_{};
  bool has_arbiter_ = false;
  SourceState state_ = SourceState::kRunning;
  SourceState next_ = SourceState::kKept;  ///< Where kReclaiming leads: kRunning or kKept.
  std::uint32_t attempt_ = 0;
  bool committed_ = false;
  bool relinquished_ = false;  ///< Locks were let go and not taken back.
  bool discarded_ = false;     ///< The target said, for good, that nothing ran there.
  bool rebooted_ = false;      ///< The target's host was restarted.
  bool target_owns_ = false;   ///< The arbiter said so.
  bool lost_ = false;
  Wish wish_ = Wish::kNone;  ///< What an operator wants of an uncertain handover.
  bool force_ = false;
  Doubt doubt_ = Doubt::kNone;
  nanoseconds ready_at_{};  ///< When READY of the committed attempt was received, and
  nanoseconds lease_{};     ///< how long a lease it granted.
  bool lazy_ = false;       ///< Of the latest attempt: memory follows after the start.
};

/// The target's side of one session.
template <typename Rules>
class BasicTargetHandover {
 public:
  BasicTargetHandover(BootId boot, nanoseconds lease, bool has_arbiter)
      : boot_(boot), lease_(lease), has_arbiter_(has_arbiter) {}

  TargetActions on(const TargetEvent& event);

  [[nodiscard]] TargetState state() const { return state_; }
  /// The latest attempt heard of; 0 before the first.
  [[nodiscard]] std::uint32_t attempt() const { return attempt_; }
  /// COMMIT was accepted: cancelling has no effect any more.
  [[nodiscard]] bool committed() const {
    return state_ == TargetState::kClaiming || state_ == TargetState::kStarting ||
           state_ == TargetState::kLaunched || state_ == TargetState::kStarted;
  }
  [[nodiscard]] bool ended() const {
    return state_ == TargetState::kStarted || state_ == TargetState::kDiscarded ||
           state_ == TargetState::kWithdrawn || state_ == TargetState::kLost;
  }
  /// When to feed kTick, CLOCK_BOOTTIME here; nullopt: never.
  [[nodiscard]] std::optional<nanoseconds> deadline() const;
  /// What this side answers to ASK now; also what its journal says between two events.
  [[nodiscard]] RecordState record_state() const;

  friend bool operator==(const BasicTargetHandover&, const BasicTargetHandover&) = default;
  /// Calls f with every field's value, for hashes and keys of explored states.
  template <typename F>
  void each_field(F&& f) const {
    f(boot_), f(lease_), f(has_arbiter_), f(state_), f(attempt_), f(lease_end_);
  }

 private:
  static constexpr bool enforces(Rule rule) { return Rules::enforces(rule); }
  static constexpr bool demand(Rule rule, bool condition) { return condition || !enforces(rule); }

  TargetActions offer(std::uint32_t attempt);
  TargetActions loaded(const TargetEvent& event);
  TargetActions commit(std::uint32_t attempt);
  TargetActions claimed(TargetEvent::Kind result);
  TargetActions record_starting();
  TargetActions start_check(nanoseconds now);
  TargetActions start_result(TargetEvent::Kind result);
  TargetActions abort(const TargetEvent& event);
  TargetActions abandon_attempt(std::uint32_t attempt);
  TargetActions leave_ready();
  TargetActions give_up();
  TargetActions record_failed();
  TargetActions discard(TargetState end);
  [[nodiscard]] TargetActions tell_end() const;
  [[nodiscard]] bool before_commit() const;
  [[nodiscard]] TargetAction act(TargetAction::Kind kind) const;
  [[nodiscard]] TargetAction record() const;

  BootId boot_{};
  nanoseconds lease_{};
  bool has_arbiter_ = false;
  TargetState state_ = TargetState::kReceiving;
  std::uint32_t attempt_ = 0;
  nanoseconds lease_end_{};  ///< Of kReady to kStarting, else 0.
};

using SourceHandover = BasicSourceHandover<AllRules>;
using TargetHandover = BasicTargetHandover<AllRules>;

extern template class BasicSourceHandover<AllRules>;
extern template class BasicTargetHandover<AllRules>;

}  // namespace migrate::session
