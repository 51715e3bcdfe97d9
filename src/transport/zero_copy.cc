#include "transport/zero_copy.hpp"

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>

#include "base/log.hpp"
#include "migrate/clock.hpp"

namespace migrate {
namespace {

// Copying 64 KiB takes some 10 us, as long as the best of round trips. The kernel's documentation
// puts the least size at which pinning pages costs less than copying them at 10 KB.
constexpr std::size_t kBytesMin = 64 << 10;
// What a dropped connection has left is in the queue of a device.
constexpr std::chrono::seconds kDropMax{1};
constexpr std::chrono::milliseconds kLookPause{1};

bool is_tcp(int fd) {
  int protocol = 0;
  socklen_t size = sizeof protocol;
  return ::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
         protocol == IPPROTO_TCP;
}

/// Of an error queue's message: which calls are finished.
std::optional<sock_extended_err> finished_calls(const msghdr& message) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(const_cast<msghdr*>(&message), header)) {
    const bool v4 = header->cmsg_level == SOL_IP && header->cmsg_type == IP_RECVERR;
    const bool v6 = header->cmsg_level == SOL_IPV6 && header->cmsg_type == IPV6_RECVERR;
    sock_extended_err error{};
    if ((!v4 && !v6) || header->cmsg_len < CMSG_LEN(sizeof error)) continue;
    std::memcpy(&error, CMSG_DATA(header), sizeof error);
    if (error.ee_origin == SO_EE_ORIGIN_ZEROCOPY && error.ee_errno == 0) return error;
  }
  return std::nullopt;
}

}  // namespace

bool ZeroCopySender::enable(const SocketState& state) {
  const int on = 1;
  if (is_tcp(state.fd()) &&
      ::setsockopt(state.fd(), SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) == 0) {
    return true;
  }
  log_line(LogLevel::kInfo, "the connection to " + state.peer() + " has no zero-copy sends");
  return false;
}

bool ZeroCopySender::suits(std::span<const iovec> parts) const {
  std::size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  return suits(bytes);
}

bool ZeroCopySender::suits(std::size_t bytes) const { return !switched_off_ && bytes >= kBytesMin; }

Status ZeroCopySender::send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) {
  PartCursor cursor(parts);
  IdleLimit idle(idle_max);
  Status status = push(cursor, idle);
  if (status) status = settle(idle);
  if (!status && outstanding_ > 0) drop_connection();
  return status;
}

Status ZeroCopySender::push(PartCursor& cursor, IdleLimit& idle) {
  bool copy = false;
  while (!cursor.done()) {
    MIGRATE_TRY(state_.check_usable());
    const msghdr message = cursor.message();
    const int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (copy ? 0 : MSG_ZEROCOPY);
    const ssize_t sent = ::sendmsg(state_.fd(), &message, flags);
    if (sent >= 0) {
      if (!copy && sent > 0) ++outstanding_;
      cursor.advance(static_cast<std::size_t>(sent));
      idle.moved();
    } else if (errno == ENOBUFS && !copy) {
      // No room for notices (net.core.optmem_max) or for locked pages (ulimit -l): only for now.
      copy = true;
    } else if (errno == EAGAIN) {
      // A notice that waits to be read makes poll() return at once.
      reap(idle);
      MIGRATE_TRY(state_.wait(Way::kSend, idle));
    } else if (errno != EINTR) {
      return state_.failure(Way::kSend, errno);
    }
  }
  return {};
}

Status ZeroCopySender::settle(IdleLimit& idle) {
  while (true) {
    reap(idle);
    if (outstanding_ == 0) return {};
    MIGRATE_TRY(state_.check_usable());
    // poll() tells of notices as of errors.
    MIGRATE_ASSIGN(const Readiness ready,
                   wait_until_ready(state_.fd(), 0, state_.wake(), idle.deadline()));
    if (ready == Readiness::kTimedOut) return state_.timed_out(Way::kSend, idle.max());
    const std::uint32_t before = outstanding_;
    reap(idle);
    if (ready == Readiness::kReady && outstanding_ == before && before > 0) {
      // A hang-up is told all the time, the last notices come when the peer acknowledges.
      const auto pause = std::min(idle.deadline(), deadline_after(kLookPause));
      MIGRATE_TRY(wait_until_ready(-1, 0, state_.wake(), pause));
    }
  }
}

void ZeroCopySender::reap(IdleLimit& idle) {
  while (outstanding_ > 0) {
    // An address of either family follows the error.
    alignas(cmsghdr) std::array<std::byte, 256> control;
    msghdr message{};
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    if (::recvmsg(state_.fd(), &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    const auto finished = finished_calls(message);
    if (!finished) continue;
    // A range of calls, by their numbers, which may wrap round.
    const std::uint32_t calls = finished->ee_data - finished->ee_info + 1;
    outstanding_ -= std::min(calls, outstanding_);
    idle.moved();
    if ((finished->ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0) note_copied();
  }
}

void ZeroCopySender::note_copied() {
  if (switched_off_) return;
  switched_off_ = true;
  log_line(LogLevel::kInfo,
           "zero-copy sends to " + state_.peer() +
               " switched off: the kernel copies all the same on the way it takes");
}

/// The caller may write to its memory again, also to what waits for the peer's acknowledgement.
void ZeroCopySender::drop_connection() {
  state_.drop();
  const SteadyDeadline deadline = deadline_after(kDropMax);
  IdleLimit idle(kDropMax);
  while (true) {
    reap(idle);
    if (outstanding_ == 0) return;
    if (system_clock().now() >= deadline) break;
    std::this_thread::sleep_for(kLookPause);
  }
  log_line(LogLevel::kWarning, "a network device still holds memory that was being sent to " +
                                   state_.peer() + " when the connection was dropped");
}

}  // namespace migrate
