// Connections and listening sockets that somebody else made.
#include <fcntl.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "migrate/channel.hpp"
#include "transport/listener.hpp"
#include "transport/listening_socket.hpp"
#include "transport/socket_address.hpp"

namespace migrate {
namespace {

class InheritedConnector final : public Connector {
 public:
  InheritedConnector(const std::vector<int>& fds, const SocketOptions& options)
      : options_(options) {
    for (const int fd : fds) sockets_.emplace_back(fd);
  }

  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds /*timeout*/) override {
    if (interrupted_.load(std::memory_order_acquire)) {
      return make_error(ErrorCode::kCancelled, "taking an inherited connection was cancelled");
    }
    if (next_ == sockets_.size()) {
      return make_error(ErrorCode::kConnectFailed, "all " + std::to_string(sockets_.size()) +
                                                       " inherited connections are in use")
          .advise("give one connection for control and one for each lane");
    }
    return make_socket_channel(sockets_[next_++].release(), options_);
  }
  void set_session(std::string_view /*session*/) override {}
  void interrupt() noexcept override { interrupted_.store(true, std::memory_order_release); }
  void resume_after_interrupt() noexcept override {
    interrupted_.store(false, std::memory_order_release);
  }
  [[nodiscard]] std::string peer() const override { return "an inherited connection"; }

 private:
  const SocketOptions options_;
  std::vector<Fd> sockets_;
  std::size_t next_ = 0;
  std::atomic<bool> interrupted_{false};
};

int socket_option(int fd, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

}  // namespace

std::unique_ptr<Connector> make_inherited_connector(std::vector<int> fds, SocketOptions options) {
  return std::make_unique<InheritedConnector>(fds, options);
}

Result<ListeningSocket> listen_inherited(int fd) {
  const std::string name = "descriptor " + std::to_string(fd);
  // What is no socket at all may be anybody's.
  if (socket_option(fd, SO_TYPE) != SOCK_STREAM || socket_option(fd, SO_ACCEPTCONN) != 1) {
    return make_error(ErrorCode::kInvalidArgument, name + " is not a listening stream socket")
        .advise(
            "give the number of a descriptor that this process was started with; a service "
            "manager's first one is 3");
  }
  Fd socket(fd);
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
      ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot take " + name + " over");
  }
  std::string address = local_text(fd);
  return ListeningSocket{std::move(socket), address.empty() ? name : std::move(address)};
}

Result<std::unique_ptr<Acceptor>> make_inherited_acceptor(int fd, SocketOptions options) {
  MIGRATE_ASSIGN(auto listening, listen_inherited(fd));
  return acceptor_on(std::move(listening), options);
}

}  // namespace migrate
