// Keeps the kernel ready for the breakpoint by which CRIU stops a task.
#pragma once

#include "base/fd.hpp"

namespace migrate::containers {

/// The first event of a system that follows a task (perf_event_open, or a debug register set by
/// ptrace, as CRIU does while the tree stands) makes the kernel patch its scheduler's code and wait
/// for all processors: 11 to 15 ms. As long as what this gives is open there is such an event,
/// one that counts nothing. None where the kernel does not let this process have one: that costs
/// time, nothing else.
[[nodiscard]] Fd keep_breakpoints_ready();

}  // namespace migrate::containers
