// Waiting for a descriptor, for an interrupt or for a deadline, whichever comes first.
#pragma once

#include <chrono>

#include "base/event_fd.hpp"
#include "migrate/result.hpp"

namespace migrate {

using SteadyDeadline = std::chrono::steady_clock::time_point;

/// `timeout` from now; the end of time where that is out of range.
[[nodiscard]] SteadyDeadline deadline_after(std::chrono::nanoseconds timeout);

enum class Readiness : std::uint8_t { kReady, kInterrupted, kTimedOut };

/// Waits until poll() reports one of `events` (or an error or hang-up) for `fd`. An `fd` of -1 is
/// never ready. An interrupt that is up goes before readiness.
[[nodiscard]] Result<Readiness> wait_until_ready(int fd, short events, const EventFd& interrupt,
                                                 SteadyDeadline deadline);

}  // namespace migrate
