// --tls-cert, --tls-key, --tls-ca and --tls-psk: how connections between hosts are secured.
#pragma once

#include <CLI/App.hpp>
#include <memory>
#include <string>
#include <vector>

#include "migrate/channel.hpp"
#include "migrate/endpoint.hpp"
#include "migrate/tls.hpp"
#include "report_json.hpp"

namespace migrate::tool {

/// How this side of a connection is secured, as on the command line.
struct TlsChoice {
  TlsOptions files;
  bool insecure = false;  ///< Plain TCP and vsock also beyond loopback.
};

/// Adds the options, and --tls-name where this side connects.
void add_tls_options(CLI::App& command, TlsChoice& choice, TlsRole role);

/// Paths made absolute, for a process whose working folder is another one.
[[nodiscard]] TlsOptions with_absolute_paths(TlsOptions files);
/// The files as options of a command line; empty without TLS.
[[nodiscard]] std::vector<std::string> tls_arguments(const TlsOptions& files);

/// As a member of a request's body; parse_tls() reads it back.
[[nodiscard]] Json to_json(const TlsOptions& files);
[[nodiscard]] Result<TlsOptions> parse_tls(const Json& json);

/// What secures connections to or at `endpoint`; nullptr: nothing, and that is allowed.
/// kInvalidArgument for files that will not do, and for plain TCP beyond loopback.
[[nodiscard]] Result<std::shared_ptr<TlsContext>> make_security(TlsRole role,
                                                                const TlsChoice& choice,
                                                                const Endpoint& endpoint);

/// `plain`, or its channels secured where there is a context.
[[nodiscard]] std::unique_ptr<Acceptor> secured(std::unique_ptr<Acceptor> plain,
                                                const std::shared_ptr<TlsContext>& context);
[[nodiscard]] std::unique_ptr<Connector> secured(std::unique_ptr<Connector> plain,
                                                 const std::shared_ptr<TlsContext>& context);

}  // namespace migrate::tool
