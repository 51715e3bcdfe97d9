// vsock: connectors and acceptors between virtual machines and their host.
#include <linux/vm_sockets.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "migrate/channel.hpp"
#include "migrate/clock.hpp"
#include "transport/connecting.hpp"
#include "transport/listener.hpp"
#include "transport/listening_socket.hpp"
#include "transport/socket_address.hpp"
#include "transport/socket_channel.hpp"

namespace migrate {
namespace {

static_assert(kVsockCidAny == VMADDR_CID_ANY);

// The kernel's 256 KiB is a quarter of a batch: the sender would wait for credit within each. A
// few batches keep it busy; more would only be memory.
constexpr std::uint64_t kBufferBytes = 4ull << 20;

constexpr const char* kNoVsock =
    "load its modules (vsock; vhost_vsock on a host, vsock_loopback for CID 1), or use TCP or a "
    "UNIX socket";

Result<Fd> new_socket(const SocketOptions& options) {
  Fd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) {
    const bool missing = errno == EAFNOSUPPORT || errno == ENODEV;
    return make_errno_error(missing ? ErrorCode::kUnsupported : ErrorCode::kIo, errno,
                            missing ? "this kernel has no vsock" : "cannot create a vsock socket")
        .advise(missing ? kNoVsock : "");
  }
  // One for what is received; a sender goes by its peer's. A smaller one is slower, no failure.
  const int asked = options.receive_buffer_bytes;
  const std::uint64_t bytes = asked > 0 ? static_cast<std::uint64_t>(asked) : kBufferBytes;
  ::setsockopt(socket.get(), AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &bytes, sizeof bytes);
  ::setsockopt(socket.get(), AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &bytes, sizeof bytes);
  return socket;
}

/// The kernel gives a peer two seconds; the caller's deadline is to decide.
void set_connect_timeout(int fd, SteadyDeadline deadline) {
  constexpr std::chrono::microseconds kMax = std::chrono::hours(1);
  const auto left = std::chrono::ceil<std::chrono::microseconds>(deadline - system_clock().now());
  const auto bounded = std::clamp<std::chrono::microseconds>(left, std::chrono::seconds(1), kMax);
  timeval time{};
  time.tv_sec = bounded / std::chrono::seconds(1);
  time.tv_usec = (bounded % std::chrono::seconds(1)).count();
  ::setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, sizeof time);
}

Error connect_failure(const std::string& where, int sys_errno) {
  switch (sys_errno) {
    case ETIMEDOUT:
      return make_errno_error(ErrorCode::kTimeout, sys_errno, where + " did not answer in time")
          .advise("check that the virtual machine runs and has a vsock device");
    case ECONNRESET:
    case ECONNREFUSED:
      return make_errno_error(ErrorCode::kConnectFailed, sys_errno,
                              where + " refused the connection")
          .advise("is `migrate recv` running there, on this port?");
    case ENODEV:
    case ENETUNREACH:
    case EHOSTUNREACH:
      return make_errno_error(ErrorCode::kConnectFailed, sys_errno, where + " cannot be reached")
          .advise(kNoVsock);
    default:
      return make_errno_error(ErrorCode::kConnectFailed, sys_errno, where + ": cannot connect");
  }
}

class VsockConnector final : public Connector {
 public:
  VsockConnector(std::uint32_t cid, std::uint32_t port, SocketOptions options, Result<EventFd> wake)
      : address_(vsock_address(cid, port)), options_(options), wake_(std::move(wake)) {}

  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds timeout) override {
    if (!wake_) return wake_.error();
    MIGRATE_TRY(check_io(options_));
    const SteadyDeadline deadline = deadline_after(timeout);
    MIGRATE_ASSIGN(Fd socket, new_socket(options_));
    set_connect_timeout(socket.get(), deadline);
    MIGRATE_ASSIGN(const int failure,
                   connect_socket(socket.get(), address_, peer(), *wake_, deadline));
    if (failure != 0) return connect_failure(peer(), failure);
    return channel_on(std::move(socket), peer(), options_);
  }
  void set_session(std::string_view /*session*/) override {}
  void interrupt() noexcept override {
    if (wake_) wake_->set();
  }
  void resume_after_interrupt() noexcept override {
    if (wake_) wake_->clear();
  }
  [[nodiscard]] std::string peer() const override { return to_text(address_); }

 private:
  const SocketAddress address_;
  const SocketOptions options_;
  Result<EventFd> wake_;  // A failure to make it is told by connect().
};

Error listen_failure(const std::string& where, int sys_errno) {
  switch (sys_errno) {
    case EADDRINUSE:
      return make_errno_error(ErrorCode::kAddressInUse, sys_errno,
                              where + " is in use by another program")
          .advise("choose another port");
    case EACCES:
    case EPERM:
      return make_errno_error(ErrorCode::kPermission, sys_errno,
                              "this user may not listen on " + where)
          .advise("choose a port from 1024 on, or run as root");
    case EADDRNOTAVAIL:
      return make_errno_error(ErrorCode::kInvalidArgument, sys_errno,
                              where + " is not an address of this machine")
          .advise("listen on vsock:PORT, which is any address; CID 1 needs vsock_loopback");
    default:
      return make_errno_error(ErrorCode::kIo, sys_errno, "cannot listen on " + where);
  }
}

}  // namespace

std::unique_ptr<Connector> make_vsock_connector(std::uint32_t cid, std::uint32_t port,
                                                SocketOptions options) {
  return std::make_unique<VsockConnector>(cid, port, options, EventFd::create());
}

Result<ListeningSocket> listen_vsock(std::uint32_t cid, std::uint32_t port,
                                     const SocketOptions& options) {
  const SocketAddress address = vsock_address(cid, port);
  MIGRATE_ASSIGN(Fd socket, new_socket(options));
  if (::bind(socket.get(), address.get(), address.length) != 0 ||
      ::listen(socket.get(), kListenBacklog) != 0) {
    return listen_failure(to_text(address), errno);
  }
  std::string bound = local_text(socket.get());
  return ListeningSocket{std::move(socket), std::move(bound)};
}

Result<std::unique_ptr<Acceptor>> make_vsock_acceptor(std::uint32_t cid, std::uint32_t port,
                                                      SocketOptions options) {
  MIGRATE_ASSIGN(auto listening, listen_vsock(cid, port, options));
  return acceptor_on(std::move(listening), options);
}

}  // namespace migrate
