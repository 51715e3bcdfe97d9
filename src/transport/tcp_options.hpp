// Socket options of TCP connections that carry a migration.
#pragma once

#include "migrate/channel.hpp"
#include "transport/socket_address.hpp"

namespace migrate {

/// No delay of small writes, and a dead peer is found by the kernel itself. Congestion control is
/// the host's, but for connections within the host, which have no network to spare. What a socket
/// does not have is left as it is: a tuned connection is faster, not more correct.
void set_tcp_options(int fd, const SocketAddress& peer) noexcept;

/// Before connect() or listen(): the window scale is settled then.
[[nodiscard]] Status set_buffer_sizes(int fd, const SocketOptions& options);

}  // namespace migrate
