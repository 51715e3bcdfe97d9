#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "adapters/containers/target/fill_messages.hpp"
#include "adapters/containers/target/filler.hpp"
#include "adapters/containers/target/filler_loop.hpp"

namespace migrate::containers {
namespace {

constexpr int kSocket = 3;

void write_file(const char* path, const char* text, std::size_t bytes) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const auto written = ::write(fd, text, bytes);
  ::close(fd);
}

/// In the child: only what a process forked off one with threads may do.
[[noreturn]] void be_the_filler(int socket) {
  // A terminal's or a service manager's farewell to the other process is none to this one.
  ::setsid();
  ::prctl(PR_SET_NAME, "migrate-fill");
  ::prctl(PR_SET_PDEATHSIG, 0);
  // It waits for microseconds at times.
  ::prctl(PR_SET_TIMERSLACK, 1000);
  if (socket != kSocket && ::dup2(socket, kSocket) < 0) ::_exit(1);
  ::fcntl(kSocket, F_SETFD, FD_CLOEXEC);
  // Links and pipes whose ends others wait for.
  ::close_range(kSocket + 1, ~0u, 0);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < kSocket; ++fd) {
    if (null >= 0) ::dup2(null, fd);
  }
  [[maybe_unused]] const int moved = ::chdir("/");
  // Nobody can do its work if the kernel picks it; refused where that takes a right it lacks.
  write_file("/proc/self/oom_score_adj", "-1000", 5);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  FillerLoop loop(kSocket);
  ::_exit(loop.run());
}

/// Forked twice, so that it is init's to reap and not the caller's.
pid_t fork_filler(int socket) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // Before the fork: not even a signal in between reaches the child.
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t child = ::fork();
  const int error = errno;
  if (child == 0) {
    const pid_t filler = ::fork();
    if (filler == 0) be_the_filler(socket);
    ::_exit(filler < 0 ? 1 : 0);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return child;
}

}  // namespace

Result<FillerHandle> launch_filler() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot make a socket for the tree's filler");
  }
  FillerHandle made{Fd(ends[0]), 0};
  Fd theirs(ends[1]);
  const pid_t child = fork_filler(theirs.get());
  if (child < 0) {
    return make_errno_error(ErrorCode::kNoMemory, errno, "cannot start the tree's filler")
        .advise("raise this host's limit of processes: ulimit -u, pids.max");
  }
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  // The only other end is the filler's: a failed second fork ends this at once.
  theirs.reset();
  ReceivedFill ready;
  const int error = receive_fill_message(made.socket.get(), ready, true);
  if (error != 0 || ready.message.word != FillWord::kReady) {
    return make_errno_error(ErrorCode::kNoMemory, error > 0 ? error : 0,
                            "the tree's filler did not start")
        .advise("raise this host's limit of processes: ulimit -u, pids.max");
  }
  made.pid = static_cast<pid_t>(ready.message.id);
  return made;
}

}  // namespace migrate::containers
