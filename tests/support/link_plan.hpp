// LinkPlan: what goes wrong on a link, where exactly. Printed by tests that fail.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace migrate::test {

/// Seen from the side that connected: the source of a migration.
enum class Direction : std::uint8_t { kToTarget = 0, kToSource = 1 };

/// What becomes of bytes sent and not yet received when a link is cut, in both directions.
enum class InFlight : std::uint8_t { kDelivered = 0, kLost = 1 };

/// Whether a cut or a stall meets one lane or every lane there is (the host or the cable is gone).
enum class Scope : std::uint8_t { kLane = 0, kLink = 1 };

/// One thing that happens once `at_byte` bytes have been sent on a lane in one direction: before
/// the first byte for 0, after the last one of a run for that run's count.
struct Fault {
  enum class Kind : std::uint8_t { kCut, kStall, kFlip, kDelay, kCall };
  Kind kind = Kind::kCut;
  std::size_t lane = 0;  ///< In the order in which channels were connected, over all time.
  Direction direction = Direction::kToTarget;
  std::uint64_t at_byte = 0;
  InFlight in_flight = InFlight::kLost;
  Scope scope = Scope::kLane;
  unsigned bit = 0;
  std::chrono::nanoseconds delay{0};
  std::function<void()> call;

  /// Both ends see the link lost.
  static Fault cut(std::size_t lane, Direction direction, std::uint64_t at_byte,
                   InFlight in_flight = InFlight::kLost, Scope scope = Scope::kLane);
  /// Nothing moves any more, either way; only deadlines tell.
  static Fault stall(std::size_t lane, Direction direction, std::uint64_t at_byte,
                     Scope scope = Scope::kLane);
  /// The byte number `at_byte` (from 0) arrives with bit `bit` (0..7) flipped.
  static Fault flip(std::size_t lane, Direction direction, std::uint64_t at_byte, unsigned bit);
  /// What is sent from that byte on arrives `delay` later than it would have.
  static Fault late(std::size_t lane, Direction direction, std::uint64_t at_byte,
                    std::chrono::nanoseconds delay);
  /// Calls `call` on the sender's thread, no lock held: to cancel or kill at a byte.
  static Fault when(std::size_t lane, Direction direction, std::uint64_t at_byte,
                    std::function<void()> call);

  [[nodiscard]] std::string to_text() const;
};

/// Bytes sent on one lane.
struct LaneBytes {
  std::uint64_t to_target = 0;
  std::uint64_t to_source = 0;
  [[nodiscard]] std::uint64_t in(Direction direction) const {
    return direction == Direction::kToTarget ? to_target : to_source;
  }
};

struct LinkPlan {
  static constexpr std::size_t kForEver = std::numeric_limits<std::size_t>::max();

  std::uint64_t seed = 0;  ///< Of the lengths of short reads and writes.
  std::vector<Fault> faults;
  std::size_t chunk_bytes_max = 0;        ///< Reads and writes move 1 to this many bytes; 0: all.
  std::size_t window_bytes = 256 * 1024;  ///< Sent and not received, a lane and direction, at most.
  std::chrono::nanoseconds latency{0};    ///< One way, real time.
  std::size_t refuse_after_cut = 0;       ///< Connects refused after each planned cut.

  [[nodiscard]] std::string to_text() const;
};

/// A plan with one cut, stall or flip at a byte that `clean_run` (a run without faults) reaches,
/// chosen by `seed`, with short reads and writes by chance. `clean_run` must have moved bytes.
[[nodiscard]] LinkPlan seeded_plan(std::uint64_t seed, std::span<const LaneBytes> clean_run);

}  // namespace migrate::test
