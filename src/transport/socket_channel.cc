#include "transport/socket_channel.hpp"

#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "migrate/options.hpp"
#include "transport/part_cursor.hpp"
#include "transport/socket_address.hpp"
#include "transport/tcp_options.hpp"

namespace migrate {
namespace {

/// Did the connection die, rather than this host fail?
bool means_link_lost(int sys_errno) {
  switch (sys_errno) {
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENETDOWN:
    case ENETRESET:
      return true;
    default:
      return false;
  }
}

Error not_a_stream_socket(int fd, int sys_errno) {
  return make_errno_error(ErrorCode::kInvalidArgument, sys_errno,
                          "descriptor " + std::to_string(fd) + " is not a connected stream socket");
}

}  // namespace

SocketChannel::SocketChannel(Fd socket, EventFd wake, std::string peer)
    : socket_(std::move(socket)), peer_(std::move(peer)), wake_(std::move(wake)) {}

SocketChannel::~SocketChannel() = default;

Status SocketChannel::check_usable() const {
  if (interrupted_.load(std::memory_order_acquire)) {
    return make_error(ErrorCode::kCancelled, "the connection to " + peer_ + " was interrupted");
  }
  if (shut_down_.load(std::memory_order_acquire)) {
    return make_error(ErrorCode::kLinkLost, "the connection to " + peer_ + " was ended here");
  }
  return {};
}

Status SocketChannel::send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) {
  PartCursor cursor(parts);
  SteadyDeadline deadline;
  bool idle = false;
  while (!cursor.done()) {
    MIGRATE_TRY(check_usable());
    const msghdr message = cursor.message();
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      cursor.advance(static_cast<std::size_t>(sent));
      idle = false;
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return failure(Way::kSend, errno);
    // The clock is read only where there is something to wait for.
    if (!std::exchange(idle, true)) deadline = deadline_after(idle_max);
    MIGRATE_TRY(wait(Way::kSend, deadline, idle_max));
  }
  return {};
}

Result<std::size_t> SocketChannel::receive(std::span<const iovec> parts,
                                           std::chrono::nanoseconds idle_max) {
  PartCursor cursor(parts);
  // Without room the kernel would answer 0, which reads as the end of the stream.
  MIGRATE_CHECK(!cursor.done());
  msghdr message = cursor.message();
  SteadyDeadline deadline;
  bool idle = false;
  while (true) {
    MIGRATE_TRY(check_usable());
    const ssize_t received = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (received > 0) return static_cast<std::size_t>(received);
    if (received == 0) {
      // Also what a shutdown() here looks like.
      MIGRATE_TRY(check_usable());
      return std::size_t{0};
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return failure(Way::kReceive, errno);
    if (!std::exchange(idle, true)) deadline = deadline_after(idle_max);
    MIGRATE_TRY(wait(Way::kReceive, deadline, idle_max));
  }
}

Status SocketChannel::wait(Way way, SteadyDeadline deadline, std::chrono::nanoseconds idle_max) {
  const short events = way == Way::kSend ? POLLOUT : POLLIN;
  MIGRATE_ASSIGN(const Readiness ready, wait_until_ready(socket_.get(), events, wake_, deadline));
  if (ready == Readiness::kReady) return {};
  MIGRATE_TRY(check_usable());
  // Interrupted, and resumed before this thread woke: the caller tries again.
  if (ready == Readiness::kInterrupted) return {};
  const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(idle_max);
  return make_error(ErrorCode::kTimeout,
                    peer_ + (way == Way::kSend ? " took no byte for " : " sent no byte for ") +
                        format_duration(waited))
      .advise("check the link and whether the process at the other side still works");
}

Error SocketChannel::failure(Way way, int sys_errno) const {
  const std::string doing = way == Way::kSend ? "sending to " : "receiving from ";
  if (!means_link_lost(sys_errno)) {
    return make_errno_error(ErrorCode::kIo, sys_errno, doing + peer_ + " failed");
  }
  return make_errno_error(ErrorCode::kLinkLost, sys_errno, "lost the connection to " + peer_)
      .advise("check the link and whether the process at the other side still runs");
}

void SocketChannel::interrupt() noexcept {
  MutexLock lock(mutex_);
  interrupted_.store(true, std::memory_order_release);
  wake_.set();
}

void SocketChannel::resume_after_interrupt() noexcept {
  MutexLock lock(mutex_);
  wake_.clear();
  interrupted_.store(false, std::memory_order_release);
}

void SocketChannel::shutdown() noexcept {
  shut_down_.store(true, std::memory_order_release);
  // Wakes every poll() on the socket. Fails only where the connection is gone already.
  ::shutdown(socket_.get(), SHUT_RDWR);
}

std::size_t SocketChannel::unsent_bytes() const {
  int bytes = 0;
  if (::ioctl(socket_.get(), SIOCOUTQ, &bytes) != 0 || bytes < 0) return 0;
  return static_cast<std::size_t>(bytes);
}

Result<std::unique_ptr<Channel>> channel_on(Fd socket, std::string peer) {
  MIGRATE_ASSIGN(EventFd wake, EventFd::create());
  return std::unique_ptr<Channel>(
      std::make_unique<SocketChannel>(std::move(socket), std::move(wake), std::move(peer)));
}

Result<std::unique_ptr<Channel>> make_socket_channel(int fd) {
  Fd socket(fd);
  int type = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
    return not_a_stream_socket(fd, type == 0 ? errno : 0);
  }
  SocketAddress peer;
  if (::getpeername(fd, peer.get(), &peer.length) != 0) return not_a_stream_socket(fd, errno);
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot keep a socket from other programs");
  }
  if (peer.family() != AF_UNIX) set_tcp_options(fd);
  const std::string name = to_text(peer);
  return channel_on(std::move(socket), name.empty() ? "the other end of a socket" : name);
}

Result<std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>>> make_channel_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot create a pair of sockets");
  }
  Fd first(fds[0]);
  Fd second(fds[1]);
  MIGRATE_ASSIGN(auto one, channel_on(std::move(first), "the other end of a channel pair"));
  MIGRATE_ASSIGN(auto other, channel_on(std::move(second), "the other end of a channel pair"));
  return std::make_pair(std::move(one), std::move(other));
}

}  // namespace migrate
