// Where a peer is, as given on the command line and to the control API.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "migrate/channel.hpp"
#include "migrate/result.hpp"
#include "transport/listening_socket.hpp"

namespace migrate::tool {

struct Endpoint {
  enum class Kind : std::uint8_t { kTcp, kUnix, kVsock, kInherited };
  std::string host;  ///< TCP: name or address, IPv6 without brackets. vsock: the CID, or "any".
  std::string port;  ///< TCP and vsock: decimal. UNIX: the path. Inherited: the descriptor.
  Kind kind = Kind::kTcp;
  [[nodiscard]] std::string text() const;
};

enum class EndpointUse : std::uint8_t { kSend, kListen };

/// "host:4444" or "[::1]:4444", "unix:/run/x.sock", "vsock:3:4444"; to listen also "vsock:4444" and
/// "fd:3". kInvalidArgument says what is wrong with anything else.
[[nodiscard]] Result<Endpoint> parse_endpoint(std::string_view text, EndpointUse use);

/// Plain TCP shows a guest's memory to the network and lets anybody on it write there, and vsock
/// lets every virtual machine on the host, so both are kept to loopback (vsock's is CID 1) unless
/// the user insists; who may connect to a UNIX socket is its mode's to say. kInvalidArgument when
/// an address of `endpoint` is beyond that, kConnectFailed when the name is unknown.
[[nodiscard]] Status require_loopback(const Endpoint& endpoint);

/// What connects to `endpoint`, which is not an inherited one.
[[nodiscard]] std::unique_ptr<Connector> connector_to(const Endpoint& endpoint,
                                                      const SocketOptions& options);
/// Listens there. An inherited descriptor is left open, but for programs that are run later: a copy
/// is taken.
[[nodiscard]] Result<ListeningSocket> listen_on(const Endpoint& endpoint,
                                                const SocketOptions& options);

}  // namespace migrate::tool
