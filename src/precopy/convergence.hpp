// When to stop pre-copy: a pure function from what is known to what to do.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "migrate/options.hpp"

namespace migrate::precopy {

/// What the fixed parts of a switchover are expected to take, in milliseconds.
struct FixedCosts {
  double pause = 0;       ///< From the call to the last vCPU's exit.
  double final_sync = 0;  ///< One collect of the tracker, as measured.
  double state_save = 0;
  double state_load = 0;  ///< As declared by the target.
  double round_trip = 0;  ///< As measured by a ping.
  [[nodiscard]] double sum() const {
    // OFFER -> READY, COMMIT -> STARTED less the half that downtime does not count: 1.5 round
    // trips.
    return pause + final_sync + state_save + state_load + 1.5 * round_trip;
  }
};

/// One round that has ended.
struct RoundSample {
  std::uint64_t pages_sent = 0;
  std::uint64_t bytes_sent = 0;
  double ms = 0;
  std::uint64_t dirty_after_pages = 0;
};

struct ConvergenceInput {
  std::span<const RoundSample> rounds;  ///< Since the last change of throttle; at least one.
  std::uint32_t rounds_done = 0;        ///< All so far.
  double ms_per_page = 0;               ///< What a dirty page costs to move in a round, measured.
  double switchover_ms_per_page = 0;    ///< The same while the guest stands.
  FixedCosts fixed;
  double max_downtime_ms = 0;
  std::uint32_t max_rounds = 0;
  double throttle = 0;        ///< Share withheld now, 0..1.
  bool can_throttle = false;  ///< The next step of the ladder allows (more of) it.
  bool out_of_steps = false;  ///< The ladder's next step is abort, or it has ended.
};

struct Decision {
  enum class Action : std::uint8_t { kNextRound, kSwitchover, kThrottle, kAbort };
  Action action = Action::kNextRound;
  double throttle = 0;  ///< New share to withhold, for kThrottle.
  double predicted_downtime_ms = 0;
  std::string reason;  ///< One clause for events and errors.
};

/// Highest share of run time that throttling withholds: a guest that gets less than a hundredth is
/// as good as down (QEMU's auto-converge stops at 99 % too).
inline constexpr double kThrottleMax = 0.99;

/// Decides what follows a round. Stop when the predicted downtime keeps the limit; a stall is two
/// rounds in a row whose dirty set did not shrink by a tenth, or the round limit.
[[nodiscard]] Decision decide(const ConvergenceInput& input);

/// Downtime if the guest were paused now with `pages` left.
[[nodiscard]] double predict_downtime_ms(const FixedCosts& fixed, double ms_per_page,
                                         std::uint64_t pages);

}  // namespace migrate::precopy
