// What a page costs to move, in a round and in the switchover, and what the link carries: learnt
// from rounds. Pure arithmetic.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "migrate/policy.hpp"

namespace migrate::forecast {

/// What may be sent in a second, all lanes together; 0: no limit.
struct BandwidthLimits {
  std::uint64_t round = 0;
  std::uint64_t switchover = 0;
};

/// A round as the lanes saw it. Times of lanes are of all of them together, in milliseconds.
struct CarriedRound {
  std::uint64_t looked_at = 0;  ///< Pages handed to the lanes.
  std::uint64_t sent = 0;       ///< Of those, with content on the wire.
  std::uint64_t wire_bytes = 0;
  double took_ms = 0;       ///< Through the target's acknowledgement.
  double busy_ms = 0;       ///< Of lanes, from batch taken to batch sent.
  double sending_ms = 0;    ///< Of that, in the socket.
  double held_back_ms = 0;  ///< Of busy_ms, waiting for the limit.
  std::size_t lanes = 1;
};

class PageCost {
 public:
  /// `may_pack`: pages may be smaller on the wire than in memory.
  PageCost(BandwidthLimits limits, bool may_pack) : limits_(limits), may_pack_(may_pack) {}

  void note(const CarriedRound& round);
  /// The limit of the next rounds, where it is less than the user's; 0: that.
  void set_round_limit(std::uint64_t bytes_per_s) { lowered_ = bytes_per_s; }

  /// Milliseconds a page that is looked at.
  [[nodiscard]] double in_round() const { return round_ms_; }
  /// The same while the guest stands. Where the switchover's own limit is none, what the rounds
  /// have shown is all that is known of the link.
  [[nodiscard]] Estimate in_switchover() const;
  /// Bytes a second of the link: over the time in which the link, or the limit, was what the lanes
  /// waited for. 0 until a round has told.
  [[nodiscard]] std::uint64_t capacity_bytes_per_s() const { return capacity_; }

 private:
  [[nodiscard]] std::uint64_t round_limit() const {
    return lowered_ != 0 ? lowered_ : limits_.round;
  }
  void enter(double round_ms, double unlimited_ms, double wire_bytes);
  void note_capacity(const CarriedRound& round);

  const BandwidthLimits limits_;
  const bool may_pack_;
  std::uint64_t lowered_ = 0;
  bool measured_ = false;    // By a round large enough to tell.
  double round_ms_ = 0.004;  // 4 KiB at 1 GB/s, until something was measured.
  double switchover_ms_ = 0.004;
  double wire_bytes_ = 4096;  // Of a page.
  std::uint64_t capacity_ = 0;
  double told_bytes_ = 0, told_ms_ = 0;  // That it was measured by, older rounds less.
  std::array<double, 4> recent_{};       // switchover_ms_ of the latest telling rounds, 0: none.
  std::size_t next_ = 0;
};

}  // namespace migrate::forecast
