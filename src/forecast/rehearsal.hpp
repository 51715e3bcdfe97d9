// What a switchover costs at the source, tried once before it counts.
#pragma once

#include <chrono>
#include <cstdint>

#include "migrate/guest.hpp"

namespace migrate::forecast {

struct Rehearsal {
  bool paused = false;                ///< The guest stood already; then it still does.
  std::chrono::nanoseconds pause{0};  ///< From the call until it stands.
  std::chrono::nanoseconds stood{0};  ///< Until it went on; 0 for one that stood already.
  std::chrono::nanoseconds save{0};
  std::uint64_t state_bytes = 0;
};

/// What the guest's adapter says; where it says nothing: pauses the guest, saves its state to
/// nowhere and lets it run on: about a millisecond for a VM of a few vCPUs, longer where device I/O
/// has to drain. Saving may write guest memory, as in a real switchover. An error leaves the guest
/// as it was, unless it says that it could not be resumed.
[[nodiscard]] Result<Rehearsal> rehearse(SourceGuest& guest);

}  // namespace migrate::forecast
