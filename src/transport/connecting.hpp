// Connecting a socket that does not block, interruptibly.
#pragma once

#include <string>

#include "base/event_fd.hpp"
#include "migrate/result.hpp"
#include "transport/readiness.hpp"
#include "transport/socket_address.hpp"

namespace migrate {

/// 0 once `fd` is connected, else the errno that says why not; ETIMEDOUT also at the deadline.
/// kCancelled once `interrupt` is raised; `where` is for its message.
[[nodiscard]] Result<int> connect_socket(int fd, const SocketAddress& address,
                                         const std::string& where, const EventFd& interrupt,
                                         SteadyDeadline deadline);

}  // namespace migrate
