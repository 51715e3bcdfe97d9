#include "migrate/endpoint.hpp"

#include <fcntl.h>

#include <cerrno>
#include <charconv>
#include <optional>
#include <utility>

#include "base/fd.hpp"
#include "transport/listen_on.hpp"
#include "transport/listener.hpp"
#include "transport/socket_address.hpp"

namespace migrate {
namespace {

Error bad_endpoint(std::string_view text, const std::string& why) {
  return make_error(ErrorCode::kInvalidArgument, "'" + std::string(text) + "' " + why)
      .advise(
          "give HOST:PORT, such as 127.0.0.1:4444 or [::1]:4444, unix:PATH or vsock:CID:PORT; to "
          "listen also vsock:PORT or fd:N");
}

template <typename Number>
std::optional<Number> number_in(std::string_view text) {
  Number number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

Result<Endpoint> parse_tcp(std::string_view text, EndpointUse use) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad_endpoint(text, "has no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (!number_in<std::uint16_t>(port)) {
    return bad_endpoint(text, "has no port number from 0 to 65535");
  }
  if (port == "0" && use == EndpointUse::kSend) {
    return bad_endpoint(text, "has port 0, on which nobody listens");
  }
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad_endpoint(text, "is an IPv6 address without brackets");
  }
  if (host.empty()) return bad_endpoint(text, "names no host");
  return Endpoint{std::string(host), std::string(port)};
}

Result<Endpoint> parse_unix(std::string_view text, std::string_view path) {
  // Whoever opens it may have another working folder than who named it.
  if (path.empty() || path.front() != '/') return bad_endpoint(text, "has no absolute path");
  MIGRATE_TRY(unix_address(std::string(path)));
  return Endpoint{"", std::string(path), Endpoint::Kind::kUnix};
}

Result<Endpoint> parse_vsock(std::string_view text, std::string_view rest, EndpointUse use) {
  const bool listening = use == EndpointUse::kListen;
  const auto colon = rest.find(':');
  const std::string_view cid = colon == std::string_view::npos ? "any" : rest.substr(0, colon);
  const std::string_view port = colon == std::string_view::npos ? rest : rest.substr(colon + 1);
  if (!number_in<std::uint32_t>(port)) return bad_endpoint(text, "has no vsock port number");
  if (cid == "any" ? !listening : !number_in<std::uint32_t>(cid)) {
    return bad_endpoint(text, "does not say which machine (CID); a virtual machine's host is 2");
  }
  return Endpoint{std::string(cid), std::string(port), Endpoint::Kind::kVsock};
}

Result<Endpoint> parse_inherited(std::string_view text, std::string_view number, EndpointUse use) {
  if (use == EndpointUse::kSend) {
    return bad_endpoint(text,
                        "cannot be sent to: the guest's process connects, and has not inherited "
                        "descriptors of this one");
  }
  const auto fd = number_in<int>(number);
  if (!fd || *fd < 0) return bad_endpoint(text, "has no descriptor's number");
  return Endpoint{"", std::string(number), Endpoint::Kind::kInherited};
}

std::uint32_t cid_of(const Endpoint& endpoint) {
  return number_in<std::uint32_t>(endpoint.host).value_or(kVsockCidAny);
}
std::uint32_t vsock_port_of(const Endpoint& endpoint) {
  return number_in<std::uint32_t>(endpoint.port).value_or(0);
}

/// What is left of `text` after `prefix`, if it has that.
std::optional<std::string_view> after(std::string_view text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return std::nullopt;
  return text.substr(prefix.size());
}

}  // namespace

std::string Endpoint::text() const {
  switch (kind) {
    case Kind::kUnix:
      return "unix:" + port;
    case Kind::kVsock:
      return "vsock:" + host + ":" + port;
    case Kind::kInherited:
      return "fd:" + port;
    case Kind::kTcp:
      break;
  }
  return host_and_port(host, port);
}

Result<Endpoint> parse_endpoint(std::string_view text, EndpointUse use) {
  if (const auto path = after(text, "unix:")) return parse_unix(text, *path);
  if (const auto rest = after(text, "vsock:")) return parse_vsock(text, *rest, use);
  if (const auto number = after(text, "fd:")) return parse_inherited(text, *number, use);
  return parse_tcp(text, use);
}

std::unique_ptr<Connector> make_connector(const Endpoint& endpoint, SocketOptions options) {
  MIGRATE_CHECK(endpoint.kind != Endpoint::Kind::kInherited);
  if (endpoint.kind == Endpoint::Kind::kUnix) return make_unix_connector(endpoint.port, options);
  if (endpoint.kind == Endpoint::Kind::kVsock) {
    return make_vsock_connector(cid_of(endpoint), vsock_port_of(endpoint), options);
  }
  return make_tcp_connector(endpoint.host, endpoint.port, options);
}

Result<ListeningSocket> listen_on(const Endpoint& endpoint, const SocketOptions& options) {
  switch (endpoint.kind) {
    case Endpoint::Kind::kUnix:
      return listen_unix(endpoint.port, options);
    case Endpoint::Kind::kVsock:
      return listen_vsock(cid_of(endpoint), vsock_port_of(endpoint), options);
    case Endpoint::Kind::kInherited: {
      const int fd = number_in<int>(endpoint.port).value_or(-1);
      Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
      if (!copy) {
        return make_errno_error(ErrorCode::kInvalidArgument, errno,
                                "this process has not inherited descriptor " + endpoint.port)
            .advise("give the number of a listening socket; a service manager's first one is 3");
      }
      // A session's process outlives the listener: in it, the original would keep the address
      // taken.
      ::fcntl(fd, F_SETFD, FD_CLOEXEC);
      auto listening = listen_inherited(copy.get());
      if (listening) [[maybe_unused]]
        const int taken = copy.release();
      return listening;
    }
    case Endpoint::Kind::kTcp:
      break;
  }
  return listen_tcp(endpoint.host, endpoint.port, options);
}

Result<std::unique_ptr<Acceptor>> make_acceptor(const Endpoint& endpoint, SocketOptions options) {
  MIGRATE_ASSIGN(auto listening, listen_on(endpoint, options));
  return acceptor_on(std::move(listening), options);
}

Result<std::unique_ptr<Connector>> make_connector(std::string_view address, TlsOptions tls,
                                                  SocketOptions options) {
  MIGRATE_ASSIGN(const Endpoint endpoint, parse_endpoint(address, EndpointUse::kSend));
  auto plain = make_connector(endpoint, options);
  if (!tls.enabled()) return plain;
  if (tls.peer_name.empty() && endpoint.kind == Endpoint::Kind::kTcp) tls.peer_name = endpoint.host;
  MIGRATE_ASSIGN(auto context, make_tls_context(TlsRole::kConnect, tls));
  return make_tls_connector(std::move(plain), std::move(context));
}

Result<std::unique_ptr<Acceptor>> make_acceptor(std::string_view address, const TlsOptions& tls,
                                                SocketOptions options) {
  MIGRATE_ASSIGN(const Endpoint endpoint, parse_endpoint(address, EndpointUse::kListen));
  // Before it listens: what cannot be secured is not there to connect to.
  std::shared_ptr<TlsContext> context;
  if (tls.enabled()) {
    MIGRATE_ASSIGN(context, make_tls_context(TlsRole::kAccept, tls));
  }
  MIGRATE_ASSIGN(auto plain, make_acceptor(endpoint, options));
  if (context == nullptr) return plain;
  return make_tls_acceptor(std::move(plain), std::move(context));
}

}  // namespace migrate
