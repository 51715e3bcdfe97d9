// Convergence: what follows a round. A policy, the ladder for when it is stuck, and the throttle,
// joined. Pure: a migration and a simulation run through the same code.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "forecast/fixed_costs.hpp"
#include "migrate/options.hpp"
#include "migrate/policy.hpp"
#include "precopy/outlook.hpp"
#include "precopy/throttle_controller.hpp"

namespace migrate::precopy {

struct ConvergenceLimits {
  std::shared_ptr<const PrecopyPolicy> policy;
  std::vector<StallStep> on_stall;
  double max_downtime_ms = 50;
  double hard_ms = 0;  ///< No step raises the limit beyond it; 0: none.
  std::uint32_t max_rounds = 30;
  std::uint64_t bandwidth_bytes_per_s = 0;  ///< The user's limit; 0: none.
  double throttle_max = 0.99;
  bool can_postcopy = false;  ///< Both sides can.
  bool hybrid = false;        ///< Rounds only while they halve what is left, then post-copy.
  std::uint32_t vcpus = 1;
  std::uint64_t memory_pages = 0;
};
/// As the options have them.
[[nodiscard]] ConvergenceLimits limits_of(const OutgoingOptions& options, std::uint32_t vcpus,
                                          std::uint64_t memory_pages);

/// What moving pages costs, as known when a round has ended.
struct Costs {
  double ms_per_page = 0;           ///< In a round.
  Estimate switchover_ms_per_page;  ///< While the guest stands.
  forecast::FixedCosts fixed;
  std::uint64_t capacity_bytes_per_s = 0;
};

struct Verdict {
  enum class Action : std::uint8_t { kNextRound, kSwitchover, kPostcopy, kAbort };
  Action action = Action::kNextRound;
  std::uint64_t rate_bytes_per_s = 0;  ///< For the next round; 0: the user's limit.
  Estimate downtime_ms;                ///< If the guest were paused now.
  std::string reason;                  ///< One clause.
  std::vector<std::string> steps;      ///< What the ladder did, in words.
};

/// One migration's. One thread.
class Convergence {
 public:
  explicit Convergence(ConvergenceLimits limits);

  /// Of round 0, bytes a second; 0: the user's limit.
  [[nodiscard]] std::uint64_t first_rate() const;
  void begin_round(std::uint64_t set_pages);
  /// Within a round; shares() may change.
  void note(const DirtySample& sample);
  /// `sample.run_share` and `sample.floor_pages` are filled in here. shares() may change.
  Verdict after_round(RoundSample sample, const DirtySample& dirty, const Costs& costs);

  /// Run time to withhold, by vCPU.
  [[nodiscard]] const std::vector<double>& shares() const { return throttle_.shares(); }
  [[nodiscard]] double mean_share() const { return throttle_.mean_share(); }
  /// A switchover was given up: what rounds had reached before it says nothing of those to come.
  void attempt_failed();
  /// The guest cannot be throttled: the ladder goes on without that.
  void throttle_is_unsupported();
  /// The same of post-copy.
  void postcopy_is_unsupported() { can_postcopy_ = false; }

  /// What is expected of the whole migration, before a round over `set_pages` begins.
  [[nodiscard]] Outlook outlook(std::uint64_t set_pages, const Costs& costs) const;
  /// If the guest were paused with so many pages dirty.
  [[nodiscard]] Estimate downtime_with(std::uint64_t pages, const Costs& costs) const;
  [[nodiscard]] double max_downtime_ms() const { return max_downtime_ms_; }

 private:
  void climb(Verdict& verdict);
  bool take(const StallStep& step, Verdict& verdict);
  [[nodiscard]] bool will_throttle() const;

  const ConvergenceLimits limits_;
  ThrottleController throttle_;
  bool can_throttle_ = true;
  bool can_postcopy_ = false;
  std::vector<RoundSample> rounds_;  // Since what is withheld, or the limit, was changed.
  std::uint32_t rounds_done_ = 0;
  std::uint32_t rounds_of_step_ = 0;  // Since the latest step, which begins the count anew.
  std::uint64_t bytes_sent_ = 0;
  std::uint64_t rate_ = 0;
  double max_downtime_ms_ = 0;
  std::size_t ladder_ = 0;
};

}  // namespace migrate::precopy
