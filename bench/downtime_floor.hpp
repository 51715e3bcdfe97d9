// The floor of a downtime: what the guest, KVM and the link take by themselves, without an engine
// between them. A guest is paused, saved, loaded into another VM and started; round trips are
// measured on a loopback connection between two threads that sleep in between.
#pragma once

#include <cstdint>

#include "bench/loopback_migration.hpp"
#include "bench/measuring.hpp"

namespace migrate::bench {

/// In milliseconds, each piece alone.
struct FloorPieces {
  Samples kick;   ///< From the call of pause() to the last vCPU's exit; before downtime_ms begins.
  Samples pause;  ///< From there to its return.
  Samples save;
  Samples load;
  Samples start;
  Samples round_trip;

  /// Round trips a handover cannot do without: OFFER and READY, and COMMIT one way; what STARTED
  /// takes back is not the guest's time.
  static constexpr double kRoundTrips = 1.5;
  /// By medians; with and without the kick.
  [[nodiscard]] double sum_ms() const;
  [[nodiscard]] double sum_without_kick_ms() const { return sum_ms() - kick.median(); }
};

/// Moves one new guest by hand, its memory copied outside all measured times, and adds one sample
/// to each piece but round_trip. Gives up when the guest does not run on.
void measure_pieces(const LoopbackSetup& setup, FloorPieces& pieces);

/// Adds `count` round trips of a handover message's size.
void measure_round_trips(unsigned count, FloorPieces& pieces);

}  // namespace migrate::bench
