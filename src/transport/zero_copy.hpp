// ZeroCopySender: sends from the caller's memory without a copy (MSG_ZEROCOPY), and waits until the
// kernel has let go of it.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>

#include "migrate/result.hpp"
#include "transport/part_cursor.hpp"
#include "transport/socket_state.hpp"

namespace migrate {

/// The sending thread's. Channel::send() lets its caller write to the memory again, and what a
/// guest writes meanwhile would go out in a retransmission; so a send ends when the peer's kernel
/// has acknowledged it, which costs a round trip. That is why small sends are left to copying.
class ZeroCopySender {
 public:
  /// Asks for it; false, told in the log, for a socket that has none.
  [[nodiscard]] static bool enable(const SocketState& state);
  explicit ZeroCopySender(SocketState& state) : state_(state) {}

  /// Is this send one for it? Never again once the kernel has told that it copies all the same.
  [[nodiscard]] bool suits(std::span<const iovec> parts) const;
  [[nodiscard]] bool suits(std::size_t bytes) const;
  /// As Channel::send(). One that fails takes the connection down and lets nothing more of the
  /// caller's memory out.
  Status send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max);

 private:
  Status push(PartCursor& cursor, IdleLimit& idle);
  Status settle(IdleLimit& idle);
  /// Takes what the kernel has told of finished sends.
  void reap(IdleLimit& idle);
  void note_copied();
  void drop_connection();

  SocketState& state_;
  std::uint32_t outstanding_ = 0;  // Calls whose memory the kernel still holds.
  bool switched_off_ = false;      // The kernel copied: loopback, or a device that cannot gather.
};

}  // namespace migrate
