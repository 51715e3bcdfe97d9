// Incoming::Impl: the coordinator of the target. Its parts: incoming.cc (set-up, result),
// incoming_session.cc (records of the control lane, lingering), incoming_memory.cc (barriers,
// regions, loading), incoming_resume.cc (after a link that was lost in the rounds),
// incoming_attempts.cc (after an attempt that was given up), incoming_postcopy.cc (memory that
// follows the guest).
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "base/mutex.hpp"
#include "memory/page_ledger.hpp"
#include "migrate/migration.hpp"
#include "postcopy/lazy_target.hpp"
#include "session/introductions.hpp"
#include "session/state_stream.hpp"
#include "session/target_driver.hpp"
#include "session/void_stream.hpp"
#include "transport/bulk_receivers.hpp"
#include "wire/digest.hpp"

namespace migrate {

class Incoming::Impl {
 public:
  Impl(std::unique_ptr<TargetGuest> guest, IncomingOptions options, Host& host, Observer* observer,
       Arbiter* arbiter, Clock& clock, Takeover* takeover);

  IncomingResult run(Acceptor& acceptor);
  bool cancel() noexcept;
  void guest_ended() noexcept { guest_gone_.store(true); }

 private:
  enum class Gate { kOpen, kCancelled, kClosed };

  // Set-up and result.
  Status setup(session::Introductions& introductions);
  Result<wire::Welcome> accept_hello(const wire::Hello& hello);
  Status begin_session(session::Introductions& introductions, const wire::Hello& hello,
                       const wire::Welcome& welcome, session::Journal journal);
  Result<std::vector<std::unique_ptr<RecordChannel>>> wait_for_lanes(
      session::Introductions& introductions);
  Result<std::vector<std::unique_ptr<RecordChannel>>> wait_for_lanes_or_end(
      session::Introductions& introductions);
  void set_awaiting_lanes(bool awaiting);
  void on_lane() noexcept;
  Status make_receivers(std::vector<std::unique_ptr<RecordChannel>> lanes);
  void stop_lanes();
  void tell_network();
  void refuse(Error error);
  void finish(IncomingResult& result);
  void fill_report(IncomingResult& result);
  /// Wakes the coordinator where it waits for a record, now or the next time; any thread.
  void wake() noexcept;
  void say(std::string name, std::string detail, Phase phase = Phase::kNone);
  [[nodiscard]] double elapsed_ms() const;

  // The session.
  void serve(session::Introductions& introductions);
  void serve_once(session::Introductions& introductions);
  /// The control lane's next record; nullopt when somebody woke us. Nothing but receiving is ever
  /// interrupted: a READY or STARTED that breaks off would keep the source waiting, its guest
  /// paused.
  std::optional<Result<RecordChannel::Record>> receive(nanoseconds idle_max);
  std::optional<Result<RecordChannel::Record>> receive_once(nanoseconds idle_max);
  [[nodiscard]] Status keep_alive();
  bool begin_watch();
  bool end_watch(bool serve);
  void serve_record(session::Introductions& introductions);
  void serve_wake(session::Introductions& introductions);
  void serve_cancel();
  void serve_silence(Error error);
  void serve_failure(Error error);
  Status take(const RecordChannel::Record& record);
  void note_phase(wire::RecordType type);
  Status take_state(const RecordChannel::Record& record);
  Status take_commit(const wire::Commit& commit);
  Status take_abort(wire::Abort abort);
  Status take_forward(wire::Forward forward);
  Status take_barrier(const wire::Barrier& barrier);
  void note_round(const BulkArrivals& arrivals, SteadyTime now);
  Status take_offer(const wire::Offer& offer);
  Status check_regions(const wire::Regions& change) const;
  Status apply_regions();
  Status open_host();
  Result<std::optional<wire::Ready>> load(std::uint32_t attempt);
  Status verify_full(std::uint64_t& verify_us);

  // After an attempt that was given up.
  Status take_abort_of_attempt(std::uint32_t attempt);
  Status tell_forgotten();
  Result<PageBitmap> find_changed();
  [[nodiscard]] bool awaits_abort(const Error& error) const;

  // Post-copy.
  enum class Lazy : std::uint8_t {
    kNone,
    kAnnounced,   ///< LAZY has come: the first list of what follows is on its way.
    kRegistered,  ///< That is here, and the lanes are the guest's.
    kStands,      ///< The second list is here, too: OFFER may come.
  };
  Status check_postcopy(const wire::Hello& hello, wire::Welcome& welcome);
  Status take_lazy(const wire::Lazy& lazy);
  Status wait_for_urgent();
  Status take_lazy_void_end(const wire::VoidEnd& end);
  Status let_guest_wait();
  void fill(session::Introductions& introductions);
  [[nodiscard]] static Status link_is_lost();
  Status fill_once(session::Introductions& introductions);
  Status tell_guest_is_gone();
  Status tell_installed();
  Status tell_complete();
  void tell_host_of_all();
  std::vector<double> stalls_by_vcpu(const postcopy::TargetFigures& figures);
  void note_lazy_figures(const postcopy::TargetFigures& figures);
  void await_source(session::Introductions& introductions, Error lost);
  void answer_asking(std::unique_ptr<RecordChannel> asking);
  Status resume_filling(session::Introductions& introductions,
                        session::Introductions::Resuming arrival);
  void give_memory_up(Error lost);
  Outcome end_of_memory(IncomingResult& result);

  // After a lost link.
  enum class Resuming { kNo, kVoids, kLanes };  ///< What is awaited on the new link.
  [[nodiscard]] bool in_rounds() const;
  [[nodiscard]] bool may_resume_after(const Error& error) const;
  void on_resume() noexcept;
  void note_resumable();
  bool hear_last_word();
  void suspend(Error error);
  void await_resume(session::Introductions& introductions);
  void await_lanes(session::Introductions& introductions);
  Status take_resume_terms(const wire::ResumeTerms& terms);
  Status take_void(const wire::Void& pages);
  Status take_void_end(const wire::VoidEnd& end);
  [[nodiscard]] Status check_nothing_is_void() const;

  bool replace_control(session::Introductions& introductions, SteadyTime until);
  void linger(session::Introductions& introductions);
  [[nodiscard]] nanoseconds patience() const;
  [[nodiscard]] SteadyTime lease_over() const;

  std::unique_ptr<TargetGuest> guest_;
  const IncomingOptions options_;
  Host& host_;
  Observer* const observer_;
  Arbiter* const arbiter_;
  Clock& clock_;
  Takeover* const takeover_;

  std::atomic<Gate> gate_{Gate::kOpen};
  Mutex watch_mutex_;
  Channel* watched_ MIGRATE_GUARDED_BY(watch_mutex_) = nullptr;  // While receiving from it.
  bool woken_ MIGRATE_GUARDED_BY(watch_mutex_) = false;
  bool awaiting_lanes_ MIGRATE_GUARDED_BY(watch_mutex_) = false;
  session::Introductions* introductions_ MIGRATE_GUARDED_BY(watch_mutex_) = nullptr;
  BulkReceivers* receiving_ MIGRATE_GUARDED_BY(watch_mutex_) = nullptr;
  bool resumable_ MIGRATE_GUARDED_BY(watch_mutex_) = false;  // A RESUME means something now.

  // The coordinator's from here on.
  SteadyTime begin_{};
  wire::SessionId session_id_;
  GuestDescription description_;
  Strategy strategy_ = Strategy::kAuto;
  VerifyMode verify_ = VerifyMode::kDigest;
  std::unique_ptr<RecordChannel> control_;
  std::optional<wire::PageDigest> digest_;
  std::unique_ptr<PageLedger> ledger_;
  wire::AgreedContent agreed_;
  std::unique_ptr<BulkReceivers> receivers_;
  std::unique_ptr<session::TargetDriver> driver_;
  session::StateBuffer state_;
  std::optional<session::Journal> journal_;  // The driver's, once run() has ended.
  std::optional<wire::Regions> pending_regions_;
  std::optional<wire::Offer> offer_;
  std::uint64_t memory_digest_ = 0;
  std::uint64_t acknowledged_digest_ = 0;
  std::uint32_t round_ = 0;
  SteadyTime round_begin_{};
  bool final_applied_ = false;
  Phase attempt_phase_ = Phase::kStateSave;  // What the record that is taken belongs to.
  bool host_open_ = false;
  bool refused_ = false;
  bool released_ = false;  // The source has confirmed, or has said itself that it keeps the guest.
  bool asked_ = false;     // The control lane is one that was opened to ask.
  bool link_lost_ = false;
  std::atomic<std::uint64_t> heard_{0};  // Bytes from the source on its bulk lanes.
  bool resume_agreed_ = false;
  bool forward_agreed_ = false;
  bool attempts_agreed_ = false;
  bool memory_loaded_ = false;  // load_state() may have written to it in this attempt.
  bool forgot_pages_ = false;   // In an attempt that was given up.
  nanoseconds resume_window_{0};
  std::optional<SteadyTime> resume_until_;  // While the source is awaited.
  std::optional<SteadyTime> lost_at_;       // Until rounds go on.
  std::optional<Error> lost_error_;
  Resuming resuming_ = Resuming::kNo;
  session::VoidSet void_;
  bool postcopy_agreed_ = false;
  Lazy lazy_ = Lazy::kNone;
  std::vector<std::unique_ptr<RecordChannel>> lazy_bulk_;  // Until they are lazy_target_'s.
  std::unique_ptr<RecordChannel> lazy_urgent_;
  /// What outlives all of this where memory is lost: who waits for it goes on waiting.
  struct WaitingMemory {
    ~WaitingMemory();
    std::unique_ptr<PageLedger> ledger;  // The target's.
    std::unique_ptr<postcopy::LazyTarget> target;
  };
  std::shared_ptr<WaitingMemory> waiting_;  // Made before it can be needed; empty until it is.
  std::unique_ptr<postcopy::LazyTarget> lazy_target_;
  nanoseconds lazy_window_{0};
  bool tells_installed_ = false;
  SteadyTime installed_told_at_{};
  bool told_complete_ = false;
  bool host_has_all_ = false;  // As far as it was told.
  SteadyTime heard_at_{};
  std::atomic<bool> guest_gone_{false};
  bool filling_over_ = false;  // Nothing else is awaited, though the source has not confirmed.
  bool memory_lost_ = false;
  std::optional<Error> memory_error_;
  SteadyTime linger_until_{};  // While lingering.
  std::uint64_t final_apply_us_ = 0;
  std::optional<Error> early_error_;  // Before there was a driver.
  Report report_;
};

}  // namespace migrate
