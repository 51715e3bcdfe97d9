#include "connection_passing.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace migrate::tool {
namespace {

using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;

sockaddr_un address_of(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = path.string();
  // RuntimeDir has seen to it that names fit.
  MIGRATE_CHECK(text.size() < sizeof address.sun_path);
  std::memcpy(address.sun_path, text.data(), text.size());
  return address;
}

union ControlBuffer {
  cmsghdr header;
  std::array<char, CMSG_SPACE(sizeof(int))> bytes;
};

}  // namespace

std::filesystem::path lanes_path(const RuntimeDir& folder, const wire::SessionId& session) {
  return folder.path() / (wire::to_text(session) + ".lanes");
}

PassResult pass_connection(const std::filesystem::path& lanes, int connection) {
  const Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return PassResult::kFailed;
  sockaddr_un address = address_of(lanes);
  char byte = 0;
  iovec part{&byte, 1};
  ControlBuffer control{};
  msghdr message{};
  message.msg_name = &address;
  message.msg_namelen = sizeof address;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = control.bytes.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof connection);
  std::memcpy(CMSG_DATA(header), &connection, sizeof connection);
  if (sendmsg(socket.get(), &message, MSG_NOSIGNAL) == 1) return PassResult::kPassed;
  switch (errno) {
    case ENOENT:
      return PassResult::kNobody;
    case ECONNREFUSED:
      ::unlink(lanes.c_str());
      return PassResult::kNobody;
    case EAGAIN:
    case ENOBUFS:
      return PassResult::kFull;
    default:
      return PassResult::kFailed;
  }
}

PassedAcceptor::PassedAcceptor(std::filesystem::path lanes, Fd socket, EventFd wake,
                               std::string address, const SocketOptions& sockets)
    : lanes_(std::move(lanes)),
      socket_(std::move(socket)),
      wake_(std::move(wake)),
      address_(std::move(address)),
      sockets_(sockets) {}

PassedAcceptor::~PassedAcceptor() { ::unlink(lanes_.c_str()); }

Result<std::unique_ptr<PassedAcceptor>> PassedAcceptor::open(const std::filesystem::path& lanes,
                                                             std::string address,
                                                             const SocketOptions& sockets) {
  MIGRATE_ASSIGN(EventFd wake, EventFd::create());
  Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un name = address_of(lanes);
  // Not replaced when it is there: a session has one process.
  if (!socket || fchmod(socket.get(), 0600) != 0 ||
      bind(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot take connections at " + lanes.string())
        .advise("check the runtime folder's permissions and free space");
  }
  return std::unique_ptr<PassedAcceptor>(
      new PassedAcceptor(lanes, std::move(socket), std::move(wake), std::move(address), sockets));
}

Result<std::unique_ptr<Channel>> PassedAcceptor::accept(std::chrono::nanoseconds timeout) {
  const auto deadline = SteadyClock::now() + timeout;
  for (;;) {
    std::array<pollfd, 2> waits = {pollfd{wake_.fd(), POLLIN, 0}, pollfd{socket_.get(), POLLIN, 0}};
    const auto left = std::chrono::ceil<milliseconds>(deadline - SteadyClock::now()).count();
    const auto bounded = static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000));
    const int ready = poll(waits.data(), waits.size(), bounded);
    if (waits[0].revents != 0) {
      return make_error(ErrorCode::kCancelled, "no more connections are taken");
    }
    if (Fd connection = take()) {
      return make_socket_channel(connection.release(), sockets_);
    }
    if (ready == 0 && left <= 0) {
      return make_error(ErrorCode::kTimeout, "no connection came in time");
    }
  }
}

Fd PassedAcceptor::take() {
  char byte = 0;
  iovec part{&byte, 1};
  ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = control.bytes.size();
  if (recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC) != 1) return {};
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len != CMSG_LEN(sizeof(int))) {
    return {};
  }
  int connection = -1;
  std::memcpy(&connection, CMSG_DATA(header), sizeof connection);
  return Fd(connection);
}

}  // namespace migrate::tool
