#include "transport/listener.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "migrate/clock.hpp"
#include "migrate/options.hpp"
#include "transport/readiness.hpp"

namespace migrate {
namespace {

// The connection that cannot be taken stays ready, so poll() would return at once and spin; 20
// looks a second cost nothing, and a peer hardly notices the delay.
constexpr std::chrono::milliseconds kExhaustedPause{50};

enum class Refusal : std::uint8_t { kNothingThere, kTryNext, kExhausted, kBroken };

Refusal refusal_of(int sys_errno) {
  switch (sys_errno) {
    case EAGAIN:
      return Refusal::kNothingThere;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      return Refusal::kExhausted;
    // accept(2): errors already pending on the new connection are to be treated as no connection.
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
      return Refusal::kTryNext;
    default:
      return Refusal::kBroken;
  }
}

}  // namespace

Listener::Listener(Fd socket, EventFd wake, std::string address)
    : socket_(std::move(socket)), wake_(std::move(wake)), address_(std::move(address)) {}

Result<Accepted> Listener::accept(std::chrono::nanoseconds timeout) {
  const SteadyDeadline deadline = deadline_after(timeout);
  bool in_time = true;
  while (true) {
    if (interrupted_.load(std::memory_order_acquire)) {
      return make_error(ErrorCode::kCancelled,
                        "waiting for a peer on " + address_ + " was cancelled");
    }
    SocketAddress peer;
    Fd socket(::accept4(socket_.get(), peer.get(), &peer.length, SOCK_CLOEXEC));
    if (socket) return Accepted{std::move(socket), peer};
    const int sys_errno = errno;
    const Refusal refusal = refusal_of(sys_errno);
    if (refusal == Refusal::kTryNext) continue;
    const bool exhausted = refusal == Refusal::kExhausted;
    if (refusal == Refusal::kBroken || (exhausted && !in_time)) {
      return make_errno_error(ErrorCode::kIo, sys_errno,
                              "cannot accept a connection on " + address_)
          .advise(exhausted ? "raise the limit of open files (ulimit -n)" : "");
    }
    if (!in_time) {
      const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(timeout);
      return make_error(ErrorCode::kTimeout,
                        "nobody connected to " + address_ + " within " + format_duration(waited));
    }
    const auto pause = deadline_after(kExhaustedPause);
    const auto until = exhausted ? std::min(deadline, pause) : deadline;
    MIGRATE_ASSIGN(const Readiness ready,
                   wait_until_ready(exhausted ? -1 : socket_.get(), POLLIN, wake_, until));
    in_time = ready != Readiness::kTimedOut || until < deadline;
  }
}

void Listener::interrupt() noexcept {
  interrupted_.store(true, std::memory_order_release);
  wake_.set();
}

}  // namespace migrate
