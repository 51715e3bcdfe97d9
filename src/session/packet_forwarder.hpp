// PacketForwarder: what still comes to a guest at its source goes after it.
#pragma once

#include <cstdint>
#include <vector>

#include "migrate/clock.hpp"
#include "migrate/guest.hpp"
#include "transport/record_channel.hpp"

namespace migrate::session {

/// Used by one thread, the coordinator's. From COMMIT on and on the link that carried it: before,
/// frames may still be the source's, and a link that was opened to ask carries nothing else.
class PacketForwarder {
 public:
  struct Counts {
    std::uint64_t frames = 0, bytes = 0;
    std::uint64_t dropped = 0;  ///< Taken, and lost with the link.
  };

  /// `source` is null where there is nothing to forward, or nobody who would take it.
  PacketForwarder(PacketSource* source, Clock& clock)
      : source_(source), clock_(clock), active_(source != nullptr) {}

  /// Forwards until something comes from the target, the link fails, or `until`.
  void run(RecordChannel& control, SteadyTime until, nanoseconds idle_max);
  /// The guest runs at the target: what went there is not kept any more.
  void started();
  /// Nothing more is forwarded.
  void stop() { active_ = false; }
  /// The guest goes on here: what was taken from it goes back. Before it runs.
  void give_back();

  [[nodiscard]] bool active() const { return active_; }
  [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
  bool turn(RecordChannel& control, nanoseconds idle_max);

  PacketSource* const source_;
  Clock& clock_;
  bool active_;
  Counts counts_;
  // Copies of what was sent, for a guest that goes on here after all.
  std::vector<GuestFrame> kept_;
  std::size_t kept_bytes_ = 0;
  bool started_ = false;
};

}  // namespace migrate::session
