// Moving bytes by io_uring: a ring for each direction, since each has a thread of its own.
#include <fcntl.h>

#include <array>
#include <cerrno>

#include "base/log.hpp"
#include "transport/stream_io.hpp"
#include "transport/transfer_ring.hpp"

namespace migrate {
namespace {

class UringIo final : public StreamIo {
 public:
  explicit UringIo(const SocketState& state) : state_(state), poll_(make_poll_io(state)) {
    // io_uring does not wait for sockets that do not block: it tells their EAGAIN.
    const int flags = ::fcntl(state.fd(), F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK) != 0) ::fcntl(state.fd(), F_SETFL, flags & ~O_NONBLOCK);
  }

  Result<Moved> move(Way way, msghdr& message, IdleLimit& idle) override;

 private:
  struct Direction {
    std::unique_ptr<TransferRing> ring;
    bool by_poll = false;  // No ring could be made, or it broke.
  };
  TransferRing* ring_of(Direction& direction);
  void give_up(Direction& direction, const Error& why);

  const SocketState& state_;
  const std::unique_ptr<StreamIo> poll_;
  std::array<Direction, 2> directions_;  // Each its thread's.
};

/// Lanes are joined by one thread and used by another: the second one makes a ring anew.
TransferRing* UringIo::ring_of(Direction& direction) {
  if (direction.by_poll) return nullptr;
  if (direction.ring && direction.ring->is_this_threads()) return direction.ring.get();
  auto made = TransferRing::create(state_.wake());
  if (!made) {
    give_up(direction, made.error());
    return nullptr;
  }
  direction.ring = *std::move(made);
  return direction.ring.get();
}

/// A migration under way does not fail because descriptors or memory are short at this moment.
void UringIo::give_up(Direction& direction, const Error& why) {
  direction.ring.reset();
  direction.by_poll = true;
  log_line(LogLevel::kWarning,
           "the connection to " + state_.peer() + " goes on without io_uring: " + why.to_text());
}

Result<Moved> UringIo::move(Way way, msghdr& message, IdleLimit& idle) {
  using Kind = TransferRing::Outcome::Kind;
  Direction& direction = directions_[way == Way::kSend ? 0 : 1];
  TransferRing* ring = ring_of(direction);
  if (ring == nullptr) return poll_->move(way, message, idle);
  const auto outcome = ring->transfer(way, state_.fd(), message, idle.deadline());
  switch (outcome.kind) {
    case Kind::kMoved:
      return Moved(outcome.count);
    case Kind::kFailed:
      // Somebody made the socket non-blocking again.
      if (outcome.sys_errno == EAGAIN) {
        MIGRATE_TRY(state_.wait(way, idle));
        break;
      }
      return state_.failure(way, outcome.sys_errno);
    case Kind::kTimedOut:
      MIGRATE_TRY(state_.check_usable());
      return state_.timed_out(way, idle.max());
    case Kind::kInterrupted:
      break;
    case Kind::kBroken:
      give_up(direction, make_errno_error(ErrorCode::kIo, outcome.sys_errno,
                                          "the kernel takes no more requests"));
      break;
  }
  return Moved();
}

}  // namespace

std::unique_ptr<StreamIo> make_uring_io(const SocketState& state) {
  return std::make_unique<UringIo>(state);
}

}  // namespace migrate
