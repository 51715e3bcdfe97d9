// StreamIo: how bytes get through a socket, and wait to. By sendmsg() and poll(), or by io_uring.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <memory>
#include <optional>

#include "migrate/result.hpp"
#include "transport/socket_state.hpp"

namespace migrate {

/// How many bytes; none: nothing moved, and nothing is wrong.
using Moved = std::optional<std::size_t>;

/// One thread may move bytes one way while another moves them the other way.
class StreamIo {
 public:
  virtual ~StreamIo() = default;

  /// Moves what it can of `message` at once, else waits until something can; 0 received bytes are
  /// the end of the stream. Where nothing moved the caller looks whether the channel is still
  /// usable, and calls again. Once this returns, the kernel has let go of the buffers.
  virtual Result<Moved> move(Way way, msghdr& message, IdleLimit& idle) = 0;
};

// `state` must outlive what these make.

/// System calls never block: one that would is followed by a poll() for the socket and for the
/// interrupt. A transfer that fits costs one system call, and nothing is allocated or copied.
[[nodiscard]] std::unique_ptr<StreamIo> make_poll_io(const SocketState& state);

/// Transfer and wait in one io_uring_enter(). Moves bytes by poll() where a ring cannot be made any
/// more: see check_uring() for whether this host has any.
[[nodiscard]] std::unique_ptr<StreamIo> make_uring_io(const SocketState& state);

}  // namespace migrate
