#include "adapters/kvm/vmm/devices/host_console.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace migrate::vmm {
namespace {

// A pipe that is writable has room for this much, so that writing it does not wait.
constexpr std::size_t kPieceBytes = 512;
constexpr std::size_t kInputBytes = 256;
// How soon input is offered again to a guest that has not read the former.
constexpr int kOfferAgainMs = 20;

ErrorCode code_of(int error) {
  if (error == ENOENT) return ErrorCode::kNotFound;
  return error == EACCES || error == EROFS ? ErrorCode::kPermission : ErrorCode::kIo;
}

bool is_writable(int fd) {
  pollfd wait{fd, POLLOUT, 0};
  return ::poll(&wait, 1, 0) == 1 && (wait.revents & POLLOUT) != 0;
}

}  // namespace

Result<std::unique_ptr<HostConsole>> HostConsole::open(const Options& options) {
  MIGRATE_ASSIGN(EventFd stop, EventFd::create());
  std::unique_ptr<HostConsole> console(new HostConsole(std::move(stop)));
  switch (options.kind) {
    case ConsoleKind::kStandard:
      console->output_ = STDOUT_FILENO;
      console->input_fd_ = options.takes_input ? STDIN_FILENO : -1;
      return console;
    case ConsoleKind::kFile:
      MIGRATE_TRY(console->open_file(options.path));
      return console;
    case ConsoleKind::kTerminal:
      MIGRATE_TRY(console->open_terminal());
      return console;
  }
  return make_error(ErrorCode::kInvalidArgument, "unknown kind of console");
}

Status HostConsole::open_file(const std::string& path) {
  own_.reset(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0600));
  output_ = own_.get();
  if (own_) return {};
  const int error = errno;
  return make_errno_error(code_of(error), error, "cannot write the console to " + path)
      .advise("check the folder and its permissions");
}

Status HostConsole::open_terminal() {
  own_.reset(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  std::array<char, 64> name{};
  const bool made = own_ && ::grantpt(own_.get()) == 0 && ::unlockpt(own_.get()) == 0 &&
                    ::ptsname_r(own_.get(), name.data(), name.size()) == 0;
  if (made) other_.reset(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios mode{};
  if (!other_ || ::tcgetattr(other_.get(), &mode) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot make a pseudo terminal for the console");
  }
  // The guest's own terminal does the echoing.
  ::cfmakeraw(&mode);
  (void)::tcsetattr(other_.get(), TCSANOW, &mode);
  terminal_ = name.data();
  output_ = input_fd_ = own_.get();
  return {};
}

HostConsole::~HostConsole() {
  stop_.set();
  if (thread_.joinable()) thread_.join();
}

void HostConsole::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t count = std::min(bytes.size(), kPieceBytes);
    const ssize_t done = is_writable(output_) ? ::write(output_, bytes.data(), count) : -1;
    if (done <= 0) {
      dropped_bytes_ += bytes.size();
      return;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

Status HostConsole::start_input(Input input) {
  if (input_fd_ < 0) return {};
  input_ = std::move(input);
  // The process's signals are for others.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = 0;
  try {
    thread_ = std::thread([this] { read_input(); });
  } catch (const std::system_error& error) {
    failed = error.code().value();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failed == 0) return {};
  return make_errno_error(ErrorCode::kIo, failed, "cannot start the console's thread")
      .advise("raise the limit of processes (ulimit -u)");
}

void HostConsole::read_input() {
  std::array<std::byte, kInputBytes> bytes;
  pollfd waits[2] = {{stop_.fd(), POLLIN, 0}, {input_fd_, POLLIN, 0}};
  while (::poll(waits, 2, -1) >= 0 || errno == EINTR) {
    if (waits[0].revents != 0) return;
    if (waits[1].revents == 0) continue;
    const ssize_t count = ::read(input_fd_, bytes.data(), bytes.size());
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) return;  // Nobody will type any more.
    if (!offer(std::span(bytes).first(static_cast<std::size_t>(count)))) return;
  }
}

/// False: the console is being closed.
bool HostConsole::offer(std::span<const std::byte> bytes) {
  for (;;) {
    bytes = bytes.subspan(input_(bytes));
    if (bytes.empty()) return true;
    pollfd wait{stop_.fd(), POLLIN, 0};
    if (::poll(&wait, 1, kOfferAgainMs) == 1) return false;
  }
}

}  // namespace migrate::vmm
