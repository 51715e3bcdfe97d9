// What TCP says of its way to the peer, and how it is told to keep its queues short.
#pragma once

#include "migrate/channel.hpp"

namespace migrate {

/// On a socket that is not TCP's this does nothing that matters.
void set_tcp_pace(int fd, const Pace& pace) noexcept;
/// All 0 on other sockets.
[[nodiscard]] LinkState tcp_link_state(int fd) noexcept;

}  // namespace migrate
