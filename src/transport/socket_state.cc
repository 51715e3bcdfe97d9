#include "transport/socket_state.hpp"

#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "migrate/options.hpp"

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

}  // namespace

SocketState::SocketState(Fd socket, EventFd wake, std::string peer)
    : socket_(std::move(socket)), peer_(std::move(peer)), wake_(std::move(wake)) {}

Status SocketState::check_usable() const {
  if (interrupted_.load(std::memory_order_acquire)) {
    return make_error(ErrorCode::kCancelled, "the connection to " + peer_ + " was interrupted");
  }
  if (shut_down_.load(std::memory_order_acquire)) {
    return make_error(ErrorCode::kLinkLost, "the connection to " + peer_ + " was ended here");
  }
  return {};
}

Status SocketState::wait(Way way, IdleLimit& idle) const {
  const short events = way == Way::kSend ? POLLOUT : POLLIN;
  MIGRATE_ASSIGN(const Readiness ready,
                 wait_until_ready(socket_.get(), events, wake_, idle.deadline()));
  if (ready == Readiness::kReady) return {};
  MIGRATE_TRY(check_usable());
  // Interrupted, and resumed before this thread woke: the caller tries again.
  if (ready == Readiness::kInterrupted) return {};
  return timed_out(way, idle.max());
}

Error SocketState::timed_out(Way way, std::chrono::nanoseconds waited) const {
  return make_error(
             ErrorCode::kTimeout,
             peer_ + (way == Way::kSend ? " took no byte for " : " sent no byte for ") +
                 format_duration(std::chrono::duration_cast<std::chrono::microseconds>(waited)))
      .advise("check the link and whether the process at the other side still works");
}

Error SocketState::failure(Way way, int sys_errno) const {
  const std::string doing = way == Way::kSend ? "sending to " : "receiving from ";
  if (!means_link_lost(sys_errno)) {
    return make_errno_error(ErrorCode::kIo, sys_errno, doing + peer_ + " failed");
  }
  return make_errno_error(ErrorCode::kLinkLost, sys_errno, "lost the connection to " + peer_)
      .advise("check the link and whether the process at the other side still runs");
}

void SocketState::interrupt() noexcept {
  MutexLock lock(mutex_);
  interrupted_.store(true, std::memory_order_release);
  wake_.set();
}

void SocketState::resume_after_interrupt() noexcept {
  MutexLock lock(mutex_);
  wake_.clear();
  interrupted_.store(false, std::memory_order_release);
}

void SocketState::shutdown() noexcept {
  shut_down_.store(true, std::memory_order_release);
  // Wakes whoever waits for the socket. Fails only where the connection is gone already.
  ::shutdown(socket_.get(), SHUT_RDWR);
}

void SocketState::drop() noexcept {
  dropped_.store(true, std::memory_order_release);
  sockaddr nowhere{};
  nowhere.sa_family = AF_UNSPEC;
  ::connect(socket_.get(), &nowhere, sizeof nowhere);
}

std::size_t SocketState::unsent_bytes() const {
  if (dropped_.load(std::memory_order_acquire)) return 0;
  int bytes = 0;
  if (::ioctl(socket_.get(), SIOCOUTQ, &bytes) != 0 || bytes < 0) return 0;
  return static_cast<std::size_t>(bytes);
}

bool SocketState::has_room(std::size_t bytes) const {
  // Of the kernel's account, which is of memory: its own for a buffer, and pages begun.
  constexpr std::size_t kBufferOverhead = 2048;
  pollfd writable{fd(), POLLOUT, 0};
  if (::poll(&writable, 1, 0) != 1 || (writable.revents & POLLOUT) == 0) return false;
  std::array<std::uint32_t, SK_MEMINFO_VARS> memory{};
  socklen_t size = sizeof memory;
  if (::getsockopt(fd(), SOL_SOCKET, SO_MEMINFO, memory.data(), &size) != 0) return false;
  const std::size_t room = memory[SK_MEMINFO_SNDBUF];
  const std::size_t used = std::max(memory[SK_MEMINFO_WMEM_ALLOC], memory[SK_MEMINFO_WMEM_QUEUED]);
  return used + bytes + bytes / 4 + kBufferOverhead <= room;
}

}  // namespace migrate
