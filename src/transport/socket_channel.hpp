// SocketChannel: a Channel on a stream socket.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "migrate/channel.hpp"
#include "transport/socket_state.hpp"
#include "transport/stream_io.hpp"
#include "transport/tcp_pace.hpp"
#include "transport/zero_copy.hpp"

namespace migrate {

class SocketChannel final : public Channel {
 public:
  SocketChannel(Fd socket, EventFd wake, std::string peer, const SocketOptions& options);
  ~SocketChannel() override;

  Status send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) override;
  Result<std::size_t> receive(std::span<const iovec> parts,
                              std::chrono::nanoseconds idle_max) override;
  void interrupt() noexcept override { state_.interrupt(); }
  void resume_after_interrupt() noexcept override { state_.resume_after_interrupt(); }
  void shutdown() noexcept override { state_.shutdown(); }
  [[nodiscard]] std::size_t unsent_bytes() const override { return state_.unsent_bytes(); }
  [[nodiscard]] bool has_room(std::size_t bytes) const override {
    return !(zero_copy_ && zero_copy_->suits(bytes)) && state_.has_room(bytes);
  }
  void set_pace(const Pace& pace) override { set_tcp_pace(state_.fd(), pace); }
  [[nodiscard]] LinkState link_state() const override { return tcp_link_state(state_.fd()); }
  [[nodiscard]] std::string peer() const override { return state_.peer(); }
  [[nodiscard]] std::string peer_identity() const override { return {}; }

 private:
  SocketState state_;
  const std::unique_ptr<StreamIo> io_;
  std::optional<ZeroCopySender> zero_copy_;  // The sending thread's.
};

/// kUnsupported where `options` ask for what this process does not have.
[[nodiscard]] Status check_io(const SocketOptions& options);

/// A channel on `socket`, a connected stream socket; `peer` is for messages.
[[nodiscard]] Result<std::unique_ptr<Channel>> channel_on(Fd socket, std::string peer,
                                                          const SocketOptions& options);

}  // namespace migrate
