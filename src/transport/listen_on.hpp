// Listening where an Endpoint says.
#pragma once

#include "migrate/endpoint.hpp"
#include "transport/listening_socket.hpp"

namespace migrate {

/// As make_acceptor(), the socket alone.
[[nodiscard]] Result<ListeningSocket> listen_on(const Endpoint& endpoint,
                                                const SocketOptions& options);

}  // namespace migrate
