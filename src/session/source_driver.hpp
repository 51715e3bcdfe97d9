// SourceDriver: performs what the source's handover machine decides.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "migrate/clock.hpp"
#include "migrate/migration.hpp"
#include "session/handover.hpp"
#include "session/packet_forwarder.hpp"
#include "transport/record_channel.hpp"
#include "wire/messages.hpp"

namespace migrate::session {

/// What a source needs to find its session again.
struct SourceKeys {
  wire::SessionId id;
  std::string id_text;
  wire::JoinSecret secret;
  wire::Hasher hasher;
  BootId target_boot{};
};

/// Used by one thread, the coordinator's; watch() callbacks reach it.
class SourceDriver {
 public:
  struct Context {
    SourceGuest& guest;
    Connector* connector;
    Arbiter* arbiter;  ///< May be nullptr.
    Clock& clock;
    OutgoingOptions options;
    SourceKeys keys;
    std::function<void(Channel*)> watch;  ///< As in open_session().
    std::function<void(std::string name, std::string detail)> say;
    /// Last checks before COMMIT: the digest of READY and own samples. An error aborts.
    std::function<Status(const wire::Ready&)> check_ready;
    /// False when a cancel came first; true makes later ones come too late.
    std::function<bool()> close_gate;
    std::function<wire::Offer(std::uint32_t attempt)> make_offer;
    /// What hashing all memory took here, for this attempt; 0 where it was not done.
    std::function<nanoseconds()> hash_took;
    /// Of lanes that serve a target which loads state: why they ended. May be empty.
    std::function<std::optional<Error>()> lanes_failure = {};
    PacketSource* packets = nullptr;  ///< What OutgoingOptions::forward sends; nullptr: nothing.
  };
  SourceDriver(Context context, std::unique_ptr<RecordChannel> control);

  /// An event of now.
  [[nodiscard]] SourceEvent event(SourceEvent::Kind kind) const;
  /// Feeds one event and performs all that follows from it.
  void drive(SourceEvent::Kind kind);
  void drive(SourceEvent event);
  /// A failure here: remembered as the reason, and fed as what it is.
  void fail(Error error);
  /// The first one is what the report has.
  void remember(Error error);
  /// An ANSWER that came to somebody else who asked.
  void take_answer(const RecordChannel::Record& record);
  /// The link was lost after COMMIT, and the control lane is one that was opened to ask.
  [[nodiscard]] bool has_asked() const { return ask_until_.has_value(); }
  /// Waits for the target's next message and feeds it.
  void step(nanoseconds idle_max);
  /// Steps until the guest's owner is settled, or as settled as it gets (kUncertain, kStuck).
  void settle();

  [[nodiscard]] const SourceHandover& machine() const { return machine_; }
  [[nodiscard]] RecordChannel& control() { return *control_; }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  /// The last ABORT was given to a link that looked whole.
  [[nodiscard]] bool told_end() const { return told_end_; }
  [[nodiscard]] Refusal refusal() const { return refusal_; }
  [[nodiscard]] const SourceKeys& keys() const { return context_.keys; }

  /// Of the attempt under way: when READY is not there by then, the guest goes on. Nothing that is
  /// sent is waited for meanwhile.
  void set_hard_deadline(std::optional<SteadyTime> deadline);
  /// The round of an attempt that was given up is closed: the target is told, if it was not yet.
  Status tell_given_up();

  /// In the rounds: the control lane of a new link.
  void replace_control(std::unique_ptr<RecordChannel> control) { control_ = std::move(control); }

  /// For an operator's resolve, after run() has returned: no callback is called any more.
  void use(Connector& connector);

  struct Times {
    SteadyTime stopped_at, paused_at, offered_at, ready_at, started_at;
    SteadyTime resumed_at;  ///< Of the last attempt that was given up.
    std::optional<wire::Ready> ready;
    std::optional<wire::Started> started;
    RunState run_before = RunState::kRunning;
  };
  [[nodiscard]] const Times& times() const { return times_; }
  [[nodiscard]] const PacketForwarder::Counts& forwarded() const { return forwarder_.counts(); }

 private:
  std::optional<SourceEvent> perform(const SourceAction& action, bool& skip_rest);
  std::optional<SourceEvent> send(Status sent);
  std::optional<SourceEvent> pause_guest(bool& skip_rest);
  [[nodiscard]] nanoseconds ask_window() const;
  std::optional<SourceEvent> connect();
  std::optional<SourceEvent> ask_arbiter();
  std::optional<SourceEvent> reclaim();
  std::optional<SourceEvent> resume_guest();
  void release_guest();
  void send_released(std::uint32_t attempt);
  void note_started();
  void send_abort(const SourceAction& action);
  Result<SourceEvent> to_event(const RecordChannel::Record& record);
  Result<SourceEvent> on_ready(const wire::Ready& ready);
  [[nodiscard]] std::optional<Error> lanes_failure() const;
  [[nodiscard]] Error never_ready() const;
  [[nodiscard]] Error out_of_time() const;

  Context context_;
  std::unique_ptr<RecordChannel> control_;
  SourceHandover machine_;
  PacketForwarder forwarder_;
  Times times_;
  std::optional<Error> error_;
  Refusal refusal_ = Refusal::kNone;
  SteadyTime ready_until_{};  // Of the latest OFFER.
  std::optional<SteadyTime> ask_until_;
  nanoseconds backoff_{0};
  bool lazy_ = false;       // Memory follows after the start.
  bool resolving_ = false;  // For an operator, who waits.
  bool link_failed_ = false;
  bool guest_paused_ = false;
  bool told_end_ = false;
  std::optional<SteadyTime> hard_deadline_;
  bool offered_ = false;     // In this attempt.
  bool abort_owed_ = false;  // ABORT of the attempt waits for the end of its round.
};

}  // namespace migrate::session
