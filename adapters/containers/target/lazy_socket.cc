#include "adapters/containers/target/lazy_socket.hpp"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

namespace migrate::containers {
namespace {

constexpr std::int32_t kFinished = 0x52535446;
constexpr std::string_view kName = "/lazy-pages.socket";

Error broken(const std::string& why, int error = 0) {
  return make_errno_error(ErrorCode::kGuest, error,
                          "CRIU's socket for lazily filled memory: " + why);
}

}  // namespace

Result<LazySocket> LazySocket::listen(const std::string& folder) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = folder + std::string(kName);
  if (path.size() >= sizeof address.sun_path) {
    return make_error(ErrorCode::kInvalidArgument, "the folder's path is too long: " + folder)
        .advise("give one of fewer than 80 characters");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return broken("cannot be made", errno);
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), 1) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot listen on " + path);
  }
  return LazySocket(std::move(listener), path);
}

LazySocket::~LazySocket() {
  // Nothing to remove in what was moved from.
  if (!path_.empty()) ::unlink(path_.c_str());
}

Result<LazySocket::Told> LazySocket::take() {
  if (!connection_) {
    connection_ = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection_) {
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return Told{};
      return broken("cannot be accepted", errno);
    }
    const timeval limit{1, 0};
    ::setsockopt(connection_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return Told{};
  }
  std::int32_t word = 0;
  ssize_t got = -1;
  do {
    got = ::recv(connection_.get(), &word, sizeof word, MSG_WAITALL);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return broken("cannot be read", errno);
  if (got == 0 || word == kFinished) {
    connection_.reset();
    listener_.reset();
    return Told{Told::Kind::kEnd, 0, Fd()};
  }
  if (got != sizeof word) return broken("ended within a word");
  Told told{Told::Kind::kTask, word, Fd()};
  if (word < 0) return told;
  MIGRATE_ASSIGN(told.userfaultfd, take_descriptor());
  return told;
}

Result<Fd> LazySocket::take_descriptor() {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t got = -1;
  do {
    got = ::recvmsg(connection_.get(), &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  const cmsghdr* rights = got > 0 ? CMSG_FIRSTHDR(&header) : nullptr;
  if (rights == nullptr || rights->cmsg_type != SCM_RIGHTS) {
    return broken("a task came without its userfaultfd", got < 0 ? errno : 0);
  }
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
  return Fd(fd);
}

}  // namespace migrate::containers
