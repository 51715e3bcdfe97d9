// Moving bytes by sendmsg(), recvmsg() and poll().
#include <cerrno>

#include "transport/stream_io.hpp"

namespace migrate {
namespace {

class PollIo final : public StreamIo {
 public:
  explicit PollIo(const SocketState& state) : state_(state) {}

  Result<Moved> move(Way way, msghdr& message, IdleLimit& idle) override {
    const ssize_t moved = way == Way::kSend
                              ? ::sendmsg(state_.fd(), &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                              : ::recvmsg(state_.fd(), &message, MSG_DONTWAIT);
    if (moved >= 0) return Moved(static_cast<std::size_t>(moved));
    if (errno == EAGAIN) {
      MIGRATE_TRY(state_.wait(way, idle));
    } else if (errno != EINTR) {
      return state_.failure(way, errno);
    }
    return Moved();
  }

 private:
  const SocketState& state_;
};

}  // namespace

std::unique_ptr<StreamIo> make_poll_io(const SocketState& state) {
  return std::make_unique<PollIo>(state);
}

}  // namespace migrate
