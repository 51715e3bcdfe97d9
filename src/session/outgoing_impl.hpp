// Outgoing::Impl: the coordinator of the source. Its parts: outgoing.cc (set-up, result),
// outgoing_rounds.cc (pre-copy), outgoing_bandwidth.cc (its limits),
// outgoing_rehearsal.cc (fixed costs), outgoing_resume.cc (after a
// link that was lost in the rounds), outgoing_switchover.cc (the downtime),
// outgoing_attempts.cc (its hard limit, and what follows when it was hit), outgoing_postcopy.cc
// (memory that follows the guest).
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.hpp"
#include "base/rate_limiter.hpp"
#include "forecast/page_cost.hpp"
#include "forecast/rehearsal.hpp"
#include "memory/page_ledger.hpp"
#include "migrate/migration.hpp"
#include "postcopy/lazy_source.hpp"
#include "precopy/convergence.hpp"
#include "precopy/rounds.hpp"
#include "session/source_driver.hpp"
#include "session/source_session.hpp"
#include "transport/bulk_senders.hpp"
#include "wire/digest.hpp"

namespace migrate {

class Outgoing::Impl {
 public:
  Impl(std::unique_ptr<SourceGuest> guest, OutgoingOptions options, Observer* observer,
       Arbiter* arbiter, Clock& clock);

  OutgoingResult run(Connector& connector);
  bool cancel() noexcept;

 private:
  // What a cancel and COMMIT race for: whoever moves it away from kOpen wins.
  enum class Gate { kOpen, kCancelled, kClosed };

  // Set-up and result.
  Status setup(Connector& connector);
  Status make_session(Connector& connector);
  void fail_before_session(Error error, OutgoingResult& result);
  void conclude(OutgoingResult& result);
  void fill_report(OutgoingResult& result);
  [[nodiscard]] Strategy strategy_taken() const;
  void note_lazy_figures();
  void fill_downtime(const session::SourceDriver::Times& times);
  Error explain(Error error);
  void make_senders(std::vector<std::unique_ptr<RecordChannel>> lanes);
  [[nodiscard]] std::uint64_t delta_cache_bytes(std::size_t lanes) const;
  void watch(Channel* channel);
  [[nodiscard]] Status keep_alive() { return driver_->control().keep_alive(options_.peer_timeout); }
  void say(std::string name, std::string detail, Phase phase = Phase::kNone);
  [[nodiscard]] double elapsed_ms() const;

  // Pre-copy.
  Status precopy();
  Result<precopy::RoundOutcome> run_round();
  void note_round(const precopy::RoundOutcome& outcome, double start_ms);
  precopy::Verdict decide(const precopy::RoundOutcome& outcome);
  Status rehearse();
  [[nodiscard]] forecast::FixedCosts fixed_costs() const;
  [[nodiscard]] precopy::Costs costs() const;
  Status follow(const precopy::Verdict& verdict, bool& done);
  Status on_sample(const precopy::DirtySample& sample);
  Status apply_throttle();
  void undo_throttle();
  Status on_progress(std::uint64_t pages_done);

  // Limits of bandwidth.
  void make_limiter();
  void use_round_rate(std::uint64_t bytes_per_s);
  void book_control();
  void use_switchover_bandwidth();
  [[nodiscard]] std::uint64_t switchover_bandwidth() const;

  // After a lost link.
  [[nodiscard]] static bool is_of_link(const Error& error);
  [[nodiscard]] bool may_resume_after(const Error& error) const;
  Result<std::optional<precopy::RoundOutcome>> reconnect(Error lost);
  Status resume(std::optional<precopy::RoundOutcome>& closed, SteadyTime until);
  Status tell_void_pages();
  Status tell_end_anew();
  Status pause_before_connecting(SteadyTime until);
  void drop_lanes();
  void use_connector(Connector* connector);

  // The hard limit of the downtime.
  Status check_attempts() const;
  Status hand_over();
  Status approach();
  void bound_attempt();
  void extend_attempt(nanoseconds by);
  void unbound_attempt();
  [[nodiscard]] Status in_time();
  [[nodiscard]] bool was_late(const Error& error);
  Status after_attempt();
  Status close_attempt();
  Status await_attempt_end();
  Status pause_after_attempt(nanoseconds pause);
  [[nodiscard]] Error too_many_attempts() const;
  [[nodiscard]] Error late_for_postcopy() const;

  // Post-copy.
  [[nodiscard]] bool can_postcopy() const;
  Status prepare_postcopy();
  Status begin_lazy();
  Status join_urgent();
  [[nodiscard]] Status check_still_missing(const PageBitmap& missing) const;
  [[nodiscard]] Status check_installed(const PageBitmap& installed) const;
  void widen(PageBitmap& pages) const;
  void make_lazy_source();
  Status offer_lazily(const PageBitmap& late);
  void serve_lazily();
  Status serve_once();
  Status take_lazily(const RecordChannel::Record& record);
  Status release_installed(const wire::Installed& installed);
  Status take_complete(const wire::Complete& complete);
  void tell_lazy_progress();
  [[nodiscard]] static Status link_was_lost(std::string message);
  Status come_back(Error lost);
  bool pause_before_serving(SteadyTime until);
  void grow_backoff();
  Status serve_again(SteadyTime until);
  Status take_still_missing(RecordChannel& control, std::uint64_t digest);
  Result<std::unique_ptr<RecordChannel>> connect_to_target(const OutgoingOptions& hasty);
  void ask_for_end(SteadyTime until);

  // The switchover.
  void switchover();
  Status send_everything();
  Status send_settled();
  Status verify_full();
  Status sample_clean_pages();
  wire::Offer make_offer(std::uint32_t attempt) const;
  Status check_ready(const wire::Ready& ready);
  Result<bool> read_pages(const RegionId& region, PageRange range, std::span<std::byte> into);

  std::unique_ptr<SourceGuest> guest_;
  const OutgoingOptions options_;
  Observer* const observer_;
  Arbiter* const arbiter_;
  Clock& clock_;

  std::atomic<Gate> gate_{Gate::kOpen};
  Mutex watch_mutex_;
  CondVar cancelled_;
  Channel* watched_ MIGRATE_GUARDED_BY(watch_mutex_) = nullptr;
  Connector* connecting_ MIGRATE_GUARDED_BY(watch_mutex_) = nullptr;
  BulkSenders* sending_ MIGRATE_GUARDED_BY(watch_mutex_) = nullptr;

  // The coordinator's from here on.
  SteadyTime begin_;
  nanoseconds cpu_begin_{0};
  wire::SessionId session_id_;
  GuestDescription description_;
  double round_trip_ms_ = 0;
  double declared_load_ms_ = 0;
  bool refused_ = false;
  bool resume_agreed_ = false;
  bool postcopy_agreed_ = false;
  std::uint16_t bulk_lanes_ = 0;
  Connector* connector_ = nullptr;
  std::string target_identity_;
  nanoseconds without_link_{0};  // Since the last round that was acknowledged.
  nanoseconds backoff_{0};
  std::optional<wire::PageDigest> digest_;
  std::unique_ptr<PageLedger> ledger_;
  std::unique_ptr<RateLimiter> limiter_;
  std::unique_ptr<session::SourceDriver> driver_;
  wire::AgreedContent agreed_;
  std::unique_ptr<BulkSenders> senders_;
  std::unique_ptr<precopy::Rounds> rounds_;
  bool tracking_ = false;
  Phase phase_ = Phase::kSetup;
  Report report_;

  // Convergence.
  std::optional<forecast::Rehearsal> rehearsal_;
  std::optional<precopy::Convergence> convergence_;
  std::optional<forecast::PageCost> page_cost_;
  std::uint64_t control_booked_ =
      0;                          // Bytes of the present control lane that the limiter knows of.
  std::vector<double> throttle_;  // Withheld now, by vCPU, as the guest was told; empty: nothing.
  precopy::Outlook outlook_;      // Before the round under way.
  SteadyTime progress_at_{};
  std::uint64_t round_pages_ = 0;

  // The hard limit of the downtime.
  std::optional<SteadyTime> attempt_until_;  // While an attempt is bounded.
  bool late_ = false;                        // It was noticed that the time is over.
  double attempt_start_ms_ = 0;

  // Post-copy.
  bool lazy_ = false;  // Memory follows after the switchover.
  std::vector<wire::LazyTerms::Granule> granules_;
  std::unique_ptr<RecordChannel> lazy_urgent_;  // Until it is lazy_source_'s.
  PageBitmap lazy_first_;                       // What leaves before the guest starts.
  PageBitmap lazy_released_;                    // What this host has back.
  std::uint64_t lazy_missing_ = 0;              // When the link came back last.
  bool lazy_no_progress_ = false;               // Nothing had come since the time before.
  SteadyTime lazy_lost_at_{};
  std::unique_ptr<postcopy::LazySource> lazy_source_;
  SteadyTime lazy_heard_at_{};

  // The switchover.
  nanoseconds verify_took_{0};
  nanoseconds save_took_{0};
  SteadyTime final_begin_{};
  std::optional<std::uint64_t> full_digest_;
  BulkTotals bulk_;
};

}  // namespace migrate
