// Listener: a listening socket, of any family, that waits for connections interruptibly.
#pragma once

#include <atomic>
#include <chrono>
#include <string>

#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"
#include "transport/socket_address.hpp"

namespace migrate {

// A session's lanes (64 at most) connect at once, and its reconnects may meet another's.
inline constexpr int kListenBacklog = 128;

/// A connection, and where it comes from.
struct Accepted {
  Fd socket;
  SocketAddress peer;
};

class Listener {
 public:
  /// `socket` listens and does not block; `address` is for messages.
  Listener(Fd socket, EventFd wake, std::string address);

  /// The next connection; errors as Acceptor::accept(). Waits where descriptors have run out,
  /// since others may be closed meanwhile.
  [[nodiscard]] Result<Accepted> accept(std::chrono::nanoseconds timeout);
  /// accept() fails with kCancelled from now on. Any thread.
  void interrupt() noexcept;
  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] int fd() const { return socket_.get(); }

 private:
  Fd socket_;
  EventFd wake_;
  std::string address_;
  std::atomic<bool> interrupted_{false};
};

}  // namespace migrate
