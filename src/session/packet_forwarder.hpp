// PacketForwarder: what still comes to a guest at its source goes after it.
#pragma once

#include <cstdint>
#include <deque>

#include "migrate/clock.hpp"
#include "migrate/guest.hpp"
#include "migrate/result.hpp"
#include "transport/record_channel.hpp"

namespace migrate::session {

/// Used by one thread, the coordinator's. From COMMIT on and on the link that carried it: before,
/// frames may still be the source's, and a link that was opened to ask carries nothing else.
///
/// It never waits for the target: a record is begun only when the link has room for the whole of
/// it, so that a target which has stopped reading costs no more than the frames, and what is said
/// after them still leaves. No method throws: the guest's return does not depend on its frames.
class PacketForwarder {
 public:
  struct Counts {
    std::uint64_t frames = 0, bytes = 0;
    /// Taken for the guest at the target, and not handed to the link: it was lost, or had no room.
    std::uint64_t dropped = 0;
  };

  /// `source` is null where there is nothing to forward, or nobody who would take it.
  PacketForwarder(PacketSource* source, Clock& clock)
      : source_(source), clock_(clock), active_(source != nullptr) {}

  /// Forwards until something comes from the target, the link fails, or `until`.
  void run(RecordChannel& control, SteadyTime until);
  /// Forwards what waits already, for at most as long as that takes the link.
  void run_once(RecordChannel& control, SteadyTime until);
  /// The guest runs at the target: what went there is not kept any more.
  void started();
  /// Nothing more is forwarded.
  void stop();
  /// The guest goes on here: all that was taken from it goes back, in its order. Before it runs.
  void give_back();

  [[nodiscard]] bool active() const { return active_; }
  [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
  enum class While { kTime, kSomeWait };
  Status forward(RecordChannel& control, SteadyTime until, While last);
  Status take();
  Status send_some(RecordChannel& control, SteadyTime until);
  [[nodiscard]] bool may_send(const RecordChannel& control, std::size_t bytes) const;
  void pass();

  PacketSource* const source_;
  Clock& clock_;
  bool active_;
  Counts counts_;
  // Until STARTED all that was taken, for a guest that goes on here after all; then what is unsent.
  std::deque<GuestFrame> taken_;
  std::size_t taken_bytes_ = 0;
  std::size_t next_ = 0;  // Of taken_: to be sent, or passed over.
  bool started_ = false;
};

}  // namespace migrate::session
