#include "transport/listener.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "migrate/clock.hpp"
#include "migrate/options.hpp"
#include "transport/readiness.hpp"
#include "transport/socket_channel.hpp"
#include "transport/tcp_options.hpp"

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

/// Channels of connections, whatever their family.
class SocketAcceptor final : public Acceptor {
 public:
  SocketAcceptor(ListeningSocket listening, EventFd wake, const SocketOptions& options)
      : options_(options), listener_(std::move(listening), std::move(wake)) {}

  Result<std::unique_ptr<Channel>> accept(std::chrono::nanoseconds timeout) override {
    MIGRATE_ASSIGN(Accepted accepted, listener_.accept(timeout));
    if (accepted.peer.is_ip()) set_tcp_options(accepted.socket.get(), accepted.peer);
    std::string peer = to_text(accepted.peer);
    // Clients of UNIX sockets have no name.
    if (peer.empty()) peer = "a client of " + listener_.address();
    return channel_on(std::move(accepted.socket), std::move(peer), options_);
  }
  void interrupt() noexcept override { listener_.interrupt(); }
  [[nodiscard]] std::string address() const override { return listener_.address(); }

 private:
  const SocketOptions options_;
  Listener listener_;
};

}  // namespace

Listener::Listener(ListeningSocket listening, EventFd wake)
    : listening_(std::move(listening)), wake_(std::move(wake)) {}

Result<Accepted> Listener::accept(std::chrono::nanoseconds timeout) {
  const SteadyDeadline deadline = deadline_after(timeout);
  bool in_time = true;
  while (true) {
    if (interrupted_.load(std::memory_order_acquire)) {
      return make_error(ErrorCode::kCancelled,
                        "waiting for a peer on " + address() + " was cancelled");
    }
    SocketAddress peer;
    Fd socket(::accept4(fd(), peer.get(), &peer.length, SOCK_CLOEXEC));
    if (socket) return Accepted{std::move(socket), peer};
    const int sys_errno = errno;
    const Refusal refusal = refusal_of(sys_errno);
    if (refusal == Refusal::kTryNext) continue;
    const bool exhausted = refusal == Refusal::kExhausted;
    if (refusal == Refusal::kBroken || (exhausted && !in_time)) {
      return make_errno_error(ErrorCode::kIo, sys_errno,
                              "cannot accept a connection on " + address())
          .advise(exhausted ? "raise the limit of open files (ulimit -n)" : "");
    }
    if (!in_time) {
      const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(timeout);
      return make_error(ErrorCode::kTimeout,
                        "nobody connected to " + address() + " within " + format_duration(waited));
    }
    const auto pause = deadline_after(kExhaustedPause);
    const auto until = exhausted ? std::min(deadline, pause) : deadline;
    MIGRATE_ASSIGN(const Readiness ready,
                   wait_until_ready(exhausted ? -1 : fd(), POLLIN, wake_, until));
    in_time = ready != Readiness::kTimedOut || until < deadline;
  }
}

void Listener::interrupt() noexcept {
  interrupted_.store(true, std::memory_order_release);
  wake_.set();
}

Result<std::unique_ptr<Acceptor>> acceptor_on(ListeningSocket listening,
                                              const SocketOptions& options) {
  MIGRATE_TRY(check_io(options));
  MIGRATE_ASSIGN(EventFd wake, EventFd::create());
  return std::unique_ptr<Acceptor>(
      std::make_unique<SocketAcceptor>(std::move(listening), std::move(wake), options));
}

}  // namespace migrate
