// Outgoing::Impl: the coordinator of the source. Its parts: outgoing.cc (set-up, result),
// outgoing_rounds.cc (pre-copy), outgoing_bandwidth.cc (its limits), outgoing_resume.cc (after a
// link that was lost in the rounds), outgoing_switchover.cc (the downtime).
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.hpp"
#include "base/rate_limiter.hpp"
#include "memory/page_ledger.hpp"
#include "migrate/migration.hpp"
#include "precopy/convergence.hpp"
#include "precopy/page_cost.hpp"
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
  precopy::Decision decide() const;
  [[nodiscard]] precopy::FixedCosts fixed_costs() const;
  Status follow(const precopy::Decision& decision, bool& done);
  Status throttle(double share);
  void undo_throttle();
  Status on_progress(std::uint64_t pages_done);

  // Limits of bandwidth.
  void make_limiter();
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

  // The switchover.
  void switchover();
  Status send_everything();
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
  std::vector<precopy::RoundSample> samples_;
  std::size_t samples_from_ = 0;  // Where the last change of throttle was.
  std::optional<precopy::PageCost> page_cost_;
  std::uint64_t control_booked_ =
      0;  // Bytes of the present control lane that the limiter knows of.
  std::size_t ladder_ = 0;
  double throttle_ = 0;
  precopy::Decision decision_;
  SteadyTime progress_at_{};
  std::uint64_t round_pages_ = 0;

  // The switchover.
  nanoseconds verify_took_{0};
  nanoseconds save_took_{0};
  SteadyTime final_begin_{};
  std::optional<std::uint64_t> full_digest_;
  BulkTotals bulk_;
};

}  // namespace migrate
