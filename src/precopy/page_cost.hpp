// What a page costs to move, in a round and in the switchover: pure arithmetic.
#pragma once

#include <cstdint>

#include "precopy/rounds.hpp"

namespace migrate::precopy {

/// What may be sent in a second, all lanes together; 0: no limit.
struct BandwidthLimits {
  std::uint64_t round = 0;
  std::uint64_t switchover = 0;
};

class PageCost {
 public:
  /// `may_pack`: pages may be smaller on the wire than in memory.
  PageCost(BandwidthLimits limits, bool may_pack) : limits_(limits), may_pack_(may_pack) {}

  /// Learns from a round that `lanes` lanes have carried.
  void note(const RoundOutcome& round, std::size_t lanes);

  /// Milliseconds a page that is looked at.
  [[nodiscard]] double in_round() const { return round_ms_; }
  /// The same while the guest stands. Where the switchover's own limit is none, what the rounds
  /// have shown is all that is known of the link.
  [[nodiscard]] double in_switchover() const { return switchover_ms_; }

 private:
  void enter(double round_ms, double unlimited_ms, double wire_bytes);

  const BandwidthLimits limits_;
  const bool may_pack_;
  bool measured_ = false;    // By a round large enough to tell.
  double round_ms_ = 0.004;  // 4 KiB at 1 GB/s, until something was measured.
  double switchover_ms_ = 0.004;
};

}  // namespace migrate::precopy
