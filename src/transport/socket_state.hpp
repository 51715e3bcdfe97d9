// SocketState: a connected stream socket, who is at its other end and whether it may be used. What
// the ways of moving bytes through a socket have in common.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "base/mutex.hpp"
#include "migrate/result.hpp"
#include "transport/readiness.hpp"

namespace migrate {

enum class Way : std::uint8_t { kSend, kReceive };

/// When a call gives up because no byte moves. The clock is read only where there is something to
/// wait for.
class IdleLimit {
 public:
  explicit IdleLimit(std::chrono::nanoseconds max) : max_(max) {}
  void moved() { deadline_.reset(); }
  [[nodiscard]] SteadyDeadline deadline() {
    if (!deadline_) deadline_ = deadline_after(max_);
    return *deadline_;
  }
  [[nodiscard]] std::chrono::nanoseconds max() const { return max_; }

 private:
  const std::chrono::nanoseconds max_;
  std::optional<SteadyDeadline> deadline_;
};

/// Any thread may call any method.
class SocketState {
 public:
  SocketState(Fd socket, EventFd wake, std::string peer);

  [[nodiscard]] int fd() const { return socket_.get(); }
  /// Readable from interrupt() to resume_after_interrupt().
  [[nodiscard]] const EventFd& wake() const { return wake_; }
  [[nodiscard]] const std::string& peer() const { return peer_; }

  /// The error for calls on a channel that was interrupted or shut down here.
  [[nodiscard]] Status check_usable() const;
  /// Until bytes can move that way, by poll(); kTimeout, or as check_usable(). Without an error and
  /// without bytes where the channel was interrupted and resumed before this thread woke.
  [[nodiscard]] Status wait(Way way, IdleLimit& idle) const;
  [[nodiscard]] Error failure(Way way, int sys_errno) const;
  [[nodiscard]] Error timed_out(Way way, std::chrono::nanoseconds waited) const;

  void interrupt() noexcept MIGRATE_EXCLUDES(mutex_);
  void resume_after_interrupt() noexcept MIGRATE_EXCLUDES(mutex_);
  void shutdown() noexcept;
  /// Ends the stream at once, by a reset: what has not been sent is thrown away, where shutdown()
  /// would send it first. For TCP.
  void drop() noexcept;
  /// On a UNIX socket the kernel counts its buffers, so this is an upper bound there.
  [[nodiscard]] std::size_t unsent_bytes() const;
  /// As Channel::has_room().
  [[nodiscard]] bool has_room(std::size_t bytes) const;

 private:
  const Fd socket_;
  const std::string peer_;
  Mutex mutex_;  // Keeps flag and event alike when interrupt and resume meet.
  EventFd wake_;
  std::atomic<bool> interrupted_{false};
  std::atomic<bool> shut_down_{false};
  std::atomic<bool> dropped_{false};
};

}  // namespace migrate
