// Listener: waits for the connections of a listening socket, interruptibly.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "migrate/channel.hpp"
#include "migrate/result.hpp"
#include "transport/listening_socket.hpp"
#include "transport/socket_address.hpp"

namespace migrate {

/// A connection, and where it comes from.
struct Accepted {
  Fd socket;
  SocketAddress peer;
};

class Listener {
 public:
  Listener(ListeningSocket listening, EventFd wake);

  /// The next connection; errors as Acceptor::accept(). Waits where descriptors have run out,
  /// since others may be closed meanwhile.
  [[nodiscard]] Result<Accepted> accept(std::chrono::nanoseconds timeout);
  /// accept() fails with kCancelled from now on. Any thread.
  void interrupt() noexcept;
  [[nodiscard]] const std::string& address() const { return listening_.address; }
  [[nodiscard]] int fd() const { return listening_.socket.get(); }

 private:
  ListeningSocket listening_;
  EventFd wake_;
  std::atomic<bool> interrupted_{false};
};

/// Channels of the connections that `listening` takes. kUnsupported where `options` ask for what
/// this host does not have.
[[nodiscard]] Result<std::unique_ptr<Acceptor>> acceptor_on(ListeningSocket listening,
                                                            const SocketOptions& options);

}  // namespace migrate
