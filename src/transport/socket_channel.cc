#include "transport/socket_channel.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "transport/part_cursor.hpp"
#include "transport/socket_address.hpp"
#include "transport/tcp_options.hpp"
#include "transport/transfer_ring.hpp"

namespace migrate {
namespace {

constexpr const char* kOtherEnd = "the other end of a socket";

Error not_a_stream_socket(int fd, int sys_errno) {
  return make_errno_error(ErrorCode::kInvalidArgument, sys_errno,
                          "descriptor " + std::to_string(fd) + " is not a connected stream socket");
}

// What is fastest as measured: docs/benchmarks.md, "Channel backends".
bool wants_uring(const SocketOptions& options) { return options.io == SocketIo::kUring; }

}  // namespace

SocketChannel::SocketChannel(Fd socket, EventFd wake, std::string peer,
                             const SocketOptions& options)
    : state_(std::move(socket), std::move(wake), std::move(peer)),
      io_(wants_uring(options) ? make_uring_io(state_) : make_poll_io(state_)) {
  if (options.zero_copy && ZeroCopySender::enable(state_)) zero_copy_.emplace(state_);
}

SocketChannel::~SocketChannel() = default;

Status SocketChannel::send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) {
  if (zero_copy_ && zero_copy_->suits(parts)) return zero_copy_->send(parts, idle_max);
  PartCursor cursor(parts);
  IdleLimit idle(idle_max);
  while (!cursor.done()) {
    MIGRATE_TRY(state_.check_usable());
    msghdr message = cursor.message();
    MIGRATE_ASSIGN(const auto sent, io_->move(Way::kSend, message, idle));
    if (!sent) continue;
    cursor.advance(*sent);
    idle.moved();
  }
  return {};
}

Result<std::size_t> SocketChannel::receive(std::span<const iovec> parts,
                                           std::chrono::nanoseconds idle_max) {
  PartCursor cursor(parts);
  // Without room the kernel would answer 0, which reads as the end of the stream.
  MIGRATE_CHECK(!cursor.done());
  msghdr message = cursor.message();
  IdleLimit idle(idle_max);
  while (true) {
    MIGRATE_TRY(state_.check_usable());
    MIGRATE_ASSIGN(const auto received, io_->move(Way::kReceive, message, idle));
    if (!received) continue;
    // 0 is also what a shutdown() here looks like.
    if (*received == 0) MIGRATE_TRY(state_.check_usable());
    return *received;
  }
}

Status check_io(const SocketOptions& options) {
  return wants_uring(options) ? check_uring() : Status();
}

Result<std::unique_ptr<Channel>> channel_on(Fd socket, std::string peer,
                                            const SocketOptions& options) {
  MIGRATE_ASSIGN(EventFd wake, EventFd::create());
  return std::unique_ptr<Channel>(std::make_unique<SocketChannel>(
      std::move(socket), std::move(wake), std::move(peer), options));
}

Result<std::unique_ptr<Channel>> make_socket_channel(int fd, SocketOptions options) {
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
  MIGRATE_TRY(check_io(options));
  if (peer.is_ip()) set_tcp_options(fd, peer);
  const std::string name = to_text(peer);
  return channel_on(std::move(socket), name.empty() ? kOtherEnd : name, options);
}

Result<std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>>> make_channel_pair(
    SocketOptions options) {
  MIGRATE_TRY(check_io(options));
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot create a pair of sockets");
  }
  Fd first(fds[0]);
  Fd second(fds[1]);
  constexpr const char* kPeer = "the other end of a channel pair";
  MIGRATE_ASSIGN(auto one, channel_on(std::move(first), kPeer, options));
  MIGRATE_ASSIGN(auto other, channel_on(std::move(second), kPeer, options));
  return std::make_pair(std::move(one), std::move(other));
}

}  // namespace migrate
