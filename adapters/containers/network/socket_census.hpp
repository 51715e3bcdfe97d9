// What the TCP of a network namespace has under way that no copy of its processes holds.
#pragma once

#include <cstddef>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

struct TcpUnderWay {
  std::size_t handshakes = 0;  ///< Begun by others, and not through.
  std::size_t waiting = 0;     ///< For a program to accept them.
  /// Closed by their program, with data or the end that the other side has not acknowledged.
  std::size_t closing = 0;
  [[nodiscard]] bool none() const { return handshakes + waiting + closing == 0; }
};

/// One thread.
class SocketCensus {
 public:
  /// Of the network namespace of which `space` is a descriptor. kUnsupported where the kernel does
  /// not tell.
  static Result<SocketCensus> open(int space);
  [[nodiscard]] Result<TcpUnderWay> under_way() const;
  /// Whether there is a connection within the namespace: by its loopback, or to its own address.
  [[nodiscard]] Result<bool> has_inner_connection() const;

 private:
  explicit SocketCensus(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace migrate::containers
