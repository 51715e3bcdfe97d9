// TCP: connectors and acceptors.
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "migrate/channel.hpp"
#include "migrate/clock.hpp"
#include "migrate/options.hpp"
#include "transport/connecting.hpp"
#include "transport/listener.hpp"
#include "transport/listening_socket.hpp"
#include "transport/socket_address.hpp"
#include "transport/socket_channel.hpp"
#include "transport/tcp_options.hpp"

namespace migrate {
namespace {

constexpr const char* kFreePort =
    "stop the program that holds it (`ss -ltnp` shows which) or choose another port";

Error not_in_time(const std::string& where) {
  return make_error(ErrorCode::kTimeout, where + " did not answer in time")
      .advise("check that the host is up and that no firewall drops connections to this port");
}

Error connect_failure(const std::string& where, int sys_errno) {
  const auto failed = [&](ErrorCode code, const std::string& what, const char* remedy) {
    return make_errno_error(code, sys_errno, where + what).advise(remedy);
  };
  switch (sys_errno) {
    case ECONNREFUSED:
    case ECONNRESET:
      return failed(ErrorCode::kConnectFailed, " refused the connection",
                    "is `migrate recv` running there, on this port?");
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
      return failed(ErrorCode::kConnectFailed, " cannot be reached",
                    "check the address, the route to it and the firewalls on the way");
    case ETIMEDOUT:
      return not_in_time(where);
    case EACCES:
    case EPERM:
      return failed(ErrorCode::kPermission, ": this host forbids the connection",
                    "check this host's firewall and security policy");
    case EADDRNOTAVAIL:
      return failed(ErrorCode::kConnectFailed, ": this host has no address or port left for it",
                    "check this host's addresses (`ip addr`)");
    default:
      return failed(ErrorCode::kConnectFailed, ": cannot connect", "");
  }
}

/// A port out of the range for outgoing connections may, with nobody listening, be given to the
/// very socket that connects to it: it then talks to itself.
bool connected_to_itself(int fd) { return local_text(fd) == peer_text(fd); }

class TcpConnector final : public Connector {
 public:
  TcpConnector(std::string host, std::string port, SocketOptions options, Result<EventFd> wake)
      : host_(std::move(host)), port_(std::move(port)), options_(options), wake_(std::move(wake)) {}

  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds timeout) override;
  void set_session(std::string_view /*session*/) override {}
  void interrupt() noexcept override {
    if (wake_) wake_->set();
  }
  void resume_after_interrupt() noexcept override {
    if (wake_) wake_->clear();
  }
  [[nodiscard]] std::string peer() const override { return host_and_port(host_, port_); }

 private:
  Result<std::unique_ptr<Channel>> connect_to(const SocketAddress& address,
                                              SteadyDeadline deadline);

  const std::string host_;
  const std::string port_;
  const SocketOptions options_;
  Result<EventFd> wake_;  // A failure to make it is told by connect().
};

Result<std::unique_ptr<Channel>> TcpConnector::connect(std::chrono::nanoseconds timeout) {
  if (!wake_) return wake_.error();
  MIGRATE_TRY(check_io(options_));
  const SteadyDeadline deadline = deadline_after(timeout);
  MIGRATE_ASSIGN(const auto addresses,
                 resolve(host_, port_, AddressUse::kConnect, *wake_, deadline));
  Error last = not_in_time(peer());
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    // An address that swallows packets must leave time for the others.
    const auto left = deadline - system_clock().now();
    const auto share = left / static_cast<std::int64_t>(addresses.size() - i);
    auto channel = connect_to(addresses[i], deadline_after(share));
    if (channel || channel.error().code == ErrorCode::kCancelled) return channel;
    last = std::move(channel).error();
  }
  return last;
}

Result<std::unique_ptr<Channel>> TcpConnector::connect_to(const SocketAddress& address,
                                                          SteadyDeadline deadline) {
  const std::string where = to_text(address);
  Fd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) {
    return make_errno_error(ErrorCode::kConnectFailed, errno,
                            "cannot create a socket to connect to " + where);
  }
  set_tcp_options(socket.get(), address);
  MIGRATE_TRY(set_buffer_sizes(socket.get(), options_));
  MIGRATE_ASSIGN(const int failure, connect_socket(socket.get(), address, where, *wake_, deadline));
  if (failure != 0) return connect_failure(where, failure);
  if (connected_to_itself(socket.get())) return connect_failure(where, ECONNREFUSED);
  return channel_on(std::move(socket), where, options_);
}

Error listen_failure(const std::string& where, int sys_errno) {
  const auto failed = [&](ErrorCode code, const std::string& what, const char* remedy) {
    return make_errno_error(code, sys_errno, what).advise(remedy);
  };
  switch (sys_errno) {
    case EADDRINUSE:
      return failed(ErrorCode::kAddressInUse, where + " is in use by another program", kFreePort);
    case EACCES:
    case EPERM:
      return failed(ErrorCode::kPermission, "this user may not listen on " + where,
                    "choose a port from 1024 on, or run as root");
    case EADDRNOTAVAIL:
      return failed(ErrorCode::kInvalidArgument, where + " is not an address of this host",
                    "listen on 0.0.0.0, on :: or on an address that `ip addr` shows");
    default:
      return failed(ErrorCode::kIo, "cannot listen on " + where, "");
  }
}

Result<Fd> listen_on(const SocketAddress& address, const SocketOptions& options,
                     const std::string& where) {
  Fd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return listen_failure(where, errno);
  const int on = 1;
  // Connections of a former listener that wait for their last packets do not hold the port.
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) {
    return listen_failure(where, errno);
  }
  MIGRATE_TRY(set_buffer_sizes(socket.get(), options));
  if (::bind(socket.get(), address.get(), address.length) != 0 ||
      ::listen(socket.get(), kListenBacklog) != 0) {
    return listen_failure(where, errno);
  }
  return socket;
}

}  // namespace

std::unique_ptr<Connector> make_tcp_connector(std::string host, std::string port,
                                              SocketOptions options) {
  return std::make_unique<TcpConnector>(std::move(host), std::move(port), options,
                                        EventFd::create());
}

Result<ListeningSocket> listen_tcp(const std::string& host, const std::string& port,
                                   const SocketOptions& options) {
  MIGRATE_ASSIGN(const EventFd never, EventFd::create());
  // Listening is not cancelled: a name that does not resolve fails by the resolver's own timeout.
  MIGRATE_ASSIGN(const auto addresses,
                 resolve(host, port, AddressUse::kListen, never, SteadyDeadline::max()));
  Error last = make_error(ErrorCode::kInvalidArgument, host + " has no address");
  for (const SocketAddress& address : addresses) {
    auto socket = listen_on(address, options, to_text(address));
    if (socket) {
      std::string bound = local_text(socket->get());
      return ListeningSocket{*std::move(socket), std::move(bound)};
    }
    last = std::move(socket).error();
  }
  return last;
}

Result<std::unique_ptr<Acceptor>> make_tcp_acceptor(const std::string& host,
                                                    const std::string& port,
                                                    SocketOptions options) {
  MIGRATE_ASSIGN(auto listening, listen_tcp(host, port, options));
  return acceptor_on(std::move(listening), options);
}

}  // namespace migrate
