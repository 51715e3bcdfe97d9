// UNIX sockets: connectors and acceptors.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "migrate/channel.hpp"
#include "migrate/clock.hpp"
#include "transport/listener.hpp"
#include "transport/listening_socket.hpp"
#include "transport/readiness.hpp"
#include "transport/socket_address.hpp"
#include "transport/socket_channel.hpp"
#include "transport/tcp_options.hpp"

namespace migrate {
namespace {

// How often to look again where the kernel offers nothing to wait for.
constexpr std::chrono::milliseconds kRetryPause{10};
// Those who lock the folder do so for a handful of system calls.
constexpr std::chrono::seconds kFolderLockMax{5};

Result<Fd> new_socket() {
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return make_errno_error(ErrorCode::kIo, errno, "cannot create a UNIX socket");
  return socket;
}

Error connect_failure(const std::string& path, int sys_errno) {
  const auto failed = [&](ErrorCode code, const std::string& what, const char* remedy) {
    return make_errno_error(code, sys_errno, what).advise(remedy);
  };
  switch (sys_errno) {
    case ENOENT:
      return failed(ErrorCode::kConnectFailed, "there is no socket " + path,
                    "check the path, and that the process that should listen there runs");
    case ECONNREFUSED:
      return failed(ErrorCode::kConnectFailed, "nobody listens on " + path,
                    "the process that did has ended; start it again");
    case EACCES:
    case EPERM:
      return failed(ErrorCode::kPermission, "this user may not connect to " + path,
                    "run as the user who owns the socket, or as root");
    default:
      return failed(ErrorCode::kConnectFailed, "cannot connect to " + path, "");
  }
}

class UnixConnector final : public Connector {
 public:
  UnixConnector(std::string path, SocketOptions options, Result<EventFd> wake)
      : path_(std::move(path)), options_(options), wake_(std::move(wake)) {}

  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds timeout) override;
  void set_session(std::string_view /*session*/) override {}
  void interrupt() noexcept override {
    if (wake_) wake_->set();
  }
  void resume_after_interrupt() noexcept override {
    if (wake_) wake_->clear();
  }
  [[nodiscard]] std::string peer() const override { return "unix:" + path_; }

 private:
  const std::string path_;
  const SocketOptions options_;
  Result<EventFd> wake_;  // A failure to make it is told by connect().
};

Result<std::unique_ptr<Channel>> UnixConnector::connect(std::chrono::nanoseconds timeout) {
  if (!wake_) return wake_.error();
  MIGRATE_TRY(check_io(options_));
  const SteadyDeadline deadline = deadline_after(timeout);
  MIGRATE_ASSIGN(const SocketAddress address, unix_address(path_));
  MIGRATE_ASSIGN(Fd socket, new_socket());
  MIGRATE_TRY(set_buffer_sizes(socket.get(), options_));
  while (::connect(socket.get(), address.get(), address.length) != 0) {
    if (errno == EINTR) continue;
    // EAGAIN: the listener's queue is full, and poll() does not tell when it has room again.
    if (errno != EAGAIN) return connect_failure(path_, errno);
    if (system_clock().now() >= deadline) {
      return make_error(ErrorCode::kTimeout, "the listener on " + path_ + " took no connection")
          .advise("check whether its process is stopped or overloaded");
    }
    MIGRATE_ASSIGN(const Readiness ready,
                   wait_until_ready(-1, 0, *wake_, deadline_after(kRetryPause)));
    if (ready == Readiness::kInterrupted) {
      return make_error(ErrorCode::kCancelled, "connecting to " + path_ + " was cancelled");
    }
  }
  return channel_on(std::move(socket), peer(), options_);
}

Error listen_failure(const std::string& path, int sys_errno) {
  const auto failed = [&](ErrorCode code, const std::string& what, const char* remedy) {
    return make_errno_error(code, sys_errno, what).advise(remedy);
  };
  switch (sys_errno) {
    case EADDRINUSE:
      return failed(ErrorCode::kAddressInUse, path + " is in use by a running process",
                    "end that process or choose another name");
    case EEXIST:
      return failed(ErrorCode::kAddressInUse, path + " exists and is not a socket",
                    "choose another path, or remove the file if it is not needed");
    case EACCES:
    case EPERM:
    case EROFS:
      return failed(ErrorCode::kPermission, "this user may not create the socket " + path,
                    "choose a folder this user may write to (MIGRATE_RUNTIME_DIR), or run as root");
    case ENOENT:
    case ENOTDIR:
      return failed(ErrorCode::kNotFound, "there is no folder for the socket " + path,
                    "create the folder first");
    default:
      return failed(ErrorCode::kIo, "cannot listen on " + path, "");
  }
}

/// Locks the folder of `path` against others who would replace a stale socket in it: between the
/// look and the replacement, one of them could have begun to listen there.
Result<Fd> lock_folder(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return listen_failure(path, errno);
  MIGRATE_ASSIGN(const EventFd never, EventFd::create());
  const SteadyDeadline deadline = deadline_after(kFolderLockMax);
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return listen_failure(path, errno);
    if (system_clock().now() >= deadline) {
      return make_error(ErrorCode::kBusy, "another process keeps the folder " + folder + " locked")
          .advise("end that process (`fuser` shows it) or choose another folder");
    }
    MIGRATE_TRY(wait_until_ready(-1, 0, never, deadline_after(kRetryPause)));
  }
  return fd;
}

/// Removes a socket that nobody listens on any more; anything else in the way is an error.
Status clear_the_way(const std::string& path, const SocketAddress& address) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    return errno == ENOENT ? Status() : listen_failure(path, errno);
  }
  if (!S_ISSOCK(status.st_mode)) return listen_failure(path, EEXIST);
  MIGRATE_ASSIGN(const Fd probe, new_socket());
  if (::connect(probe.get(), address.get(), address.length) == 0 || errno != ECONNREFUSED) {
    return listen_failure(path, EADDRINUSE);
  }
  if (::unlink(path.c_str()) != 0) return listen_failure(path, errno);
  return {};
}

}  // namespace

SocketFile::SocketFile(std::string path) : path_(std::move(path)) {
  struct stat status {};
  if (::lstat(path_.c_str(), &status) != 0) return;
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

SocketFile::SocketFile(SocketFile&& other) noexcept
    : path_(std::exchange(other.path_, {})), device_(other.device_), inode_(other.inode_) {}

SocketFile::~SocketFile() {
  if (path_.empty()) return;
  struct stat status {};
  const bool there = ::lstat(path_.c_str(), &status) == 0;
  if (there && status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
}

Result<ListeningSocket> listen_unix(const std::string& path, const SocketOptions& options) {
  MIGRATE_ASSIGN(const SocketAddress address, unix_address(path));
  MIGRATE_ASSIGN(Fd socket, new_socket());
  MIGRATE_TRY(set_buffer_sizes(socket.get(), options));
  MIGRATE_ASSIGN(const Fd locked, lock_folder(path));
  MIGRATE_TRY(clear_the_way(path, address));
  // Linux gives the file the mode of the socket: nobody else gets in, not even for a moment.
  if (::fchmod(socket.get(), S_IRUSR | S_IWUSR) != 0 ||
      ::bind(socket.get(), address.get(), address.length) != 0) {
    return listen_failure(path, errno);
  }
  SocketFile file(path);
  if (::listen(socket.get(), kListenBacklog) != 0) return listen_failure(path, errno);
  return ListeningSocket{std::move(socket), "unix:" + path, std::move(file)};
}

std::unique_ptr<Connector> make_unix_connector(std::string path, SocketOptions options) {
  return std::make_unique<UnixConnector>(std::move(path), options, EventFd::create());
}

Result<std::unique_ptr<Acceptor>> make_unix_acceptor(const std::string& path,
                                                     SocketOptions options) {
  MIGRATE_ASSIGN(auto listening, listen_unix(path, options));
  return acceptor_on(std::move(listening), options);
}

}  // namespace migrate
