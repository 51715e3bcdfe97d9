// SocketChannel: a Channel on a stream socket.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "base/mutex.hpp"
#include "migrate/channel.hpp"
#include "transport/readiness.hpp"

namespace migrate {

/// System calls never block: one that would is followed by a wait for the socket and for the
/// interrupt. A transfer that fits costs one system call, and nothing is allocated or copied.
class SocketChannel final : public Channel {
 public:
  SocketChannel(Fd socket, EventFd wake, std::string peer);
  ~SocketChannel() override;

  Status send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) override;
  Result<std::size_t> receive(std::span<const iovec> parts,
                              std::chrono::nanoseconds idle_max) override;
  void interrupt() noexcept override MIGRATE_EXCLUDES(mutex_);
  void resume_after_interrupt() noexcept override MIGRATE_EXCLUDES(mutex_);
  void shutdown() noexcept override;
  /// On a UNIX socket the kernel counts its buffers, so this is an upper bound there.
  [[nodiscard]] std::size_t unsent_bytes() const override;
  [[nodiscard]] std::string peer() const override { return peer_; }
  [[nodiscard]] std::string peer_identity() const override { return {}; }

 private:
  enum class Way : std::uint8_t { kSend, kReceive };

  /// The error for calls on a channel that was interrupted or shut down here.
  [[nodiscard]] Status check_usable() const;
  [[nodiscard]] Status wait(Way way, SteadyDeadline deadline, std::chrono::nanoseconds idle_max);
  [[nodiscard]] Error failure(Way way, int sys_errno) const;

  const Fd socket_;
  const std::string peer_;
  Mutex mutex_;  // Keeps flag and event alike when interrupt and resume meet.
  EventFd wake_;
  std::atomic<bool> interrupted_{false};
  std::atomic<bool> shut_down_{false};
};

/// A channel on `socket`, a connected stream socket; `peer` is for messages.
[[nodiscard]] Result<std::unique_ptr<Channel>> channel_on(Fd socket, std::string peer);

}  // namespace migrate
