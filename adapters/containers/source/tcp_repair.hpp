// Takes sockets of other processes out of the state in which CRIU copies them.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

#include "migrate/result.hpp"

namespace migrate::containers {

/// Of all descriptors of `processes`: TCP sockets in TCP_REPAIR, in which they say nothing to their
/// peers, are as they were before. Gives how many there were. Processes that are gone have none.
/// kPermission, after all others were done, where one could not be asked.
Result<std::size_t> clear_tcp_repair(std::span<const pid_t> processes);
/// How many are in TCP_REPAIR; for tests and reports.
Result<std::size_t> count_tcp_repair(std::span<const pid_t> processes);

}  // namespace migrate::containers
