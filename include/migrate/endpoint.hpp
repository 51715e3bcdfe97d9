// Endpoint: where a peer is, as people write it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "migrate/channel.hpp"
#include "migrate/result.hpp"
#include "migrate/tls.hpp"

namespace migrate {

struct Endpoint {
  enum class Kind : std::uint8_t { kTcp, kUnix, kVsock, kInherited };
  std::string host;  ///< TCP: name or address, IPv6 without brackets. vsock: the CID, or "any".
  std::string port;  ///< TCP and vsock: decimal. UNIX: the path. Inherited: the descriptor.
  Kind kind = Kind::kTcp;
  /// As parse_endpoint() takes it.
  [[nodiscard]] std::string text() const;
};

enum class EndpointUse : std::uint8_t { kSend, kListen };

/// "host:4444" or "[::1]:4444", "unix:/run/x.sock", "vsock:3:4444"; to listen also "host:0" (the
/// kernel picks a port), "vsock:4444" and "fd:3". kInvalidArgument says what is wrong with anything
/// else. Nothing is looked up.
[[nodiscard]] Result<Endpoint> parse_endpoint(std::string_view text, EndpointUse use);

/// What connects to `endpoint`, one that was parsed for kSend: nobody connects to an inherited one,
/// and asking for that is a programmer error. Plain: over a network that is not trusted, put TLS
/// around it (tls.hpp).
[[nodiscard]] std::unique_ptr<Connector> make_connector(const Endpoint& endpoint,
                                                        SocketOptions options = {});

/// Listens there at once; errors are those of make_tcp_acceptor() and its like. Plain, too. An
/// inherited descriptor stays open and the caller's, but not for programs that are run later: a
/// copy is taken.
[[nodiscard]] Result<std::unique_ptr<Acceptor>> make_acceptor(const Endpoint& endpoint,
                                                              SocketOptions options = {});

/// Both steps at once, and secured where `tls` is enabled; over TCP an empty `tls.peer_name` is the
/// host of `address`. Errors are those of parse_endpoint(), make_tls_context() and the makers
/// above.
[[nodiscard]] Result<std::unique_ptr<Connector>> make_connector(std::string_view address,
                                                                TlsOptions tls,
                                                                SocketOptions options = {});
[[nodiscard]] Result<std::unique_ptr<Acceptor>> make_acceptor(std::string_view address,
                                                              const TlsOptions& tls,
                                                              SocketOptions options = {});

}  // namespace migrate
