#include "adapters/containers/source/freeze_guard.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

namespace migrate::containers {
namespace {

constexpr char kGoHome = 'q';
constexpr char kLeaveFrozen = 'c';
// CRIU ends in order as soon as it finds its client gone, which it does at its next hook: so long a
// copy of much shared memory may take until then. After that it is killed.
constexpr int kCriuEndMs = 120'000;

enum Kept { kWords = 0, kThaw = 1, kCriu = 2, kGate = 3, kKept = 4 };

/// In the child: only what a process forked off one with threads may do.
[[noreturn]] void guard(const std::array<int, kKept>& given, const std::vector<char>& open_gate) {
  ::setsid();
  ::prctl(PR_SET_NAME, "migrate-thaw");
  // Out of the way of the places they are moved to.
  std::array<int, kKept> high{};
  for (int i = 0; i < kKept; ++i) high[i] = ::fcntl(given[i], F_DUPFD_CLOEXEC, kKept + 1);
  for (int i = 0; i < kKept; ++i) {
    if (high[i] < 0 || ::dup2(high[i], i) < 0) ::_exit(1);
  }
  // Links and pipes whose ends others wait for.
  ::close_range(kKept, ~0u, 0);
  [[maybe_unused]] const int moved = ::chdir("/");
  char word = 0;
  for (;;) {
    const ssize_t got = ::recv(kWords, &word, 1, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (word == kGoHome || word == kLeaveFrozen) ::_exit(0);
  }
  pollfd ended{kCriu, POLLIN, 0};
  if (::poll(&ended, 1, kCriuEndMs) == 0) {
    ::syscall(SYS_pidfd_send_signal, kCriu, SIGKILL, nullptr, 0);
    ::poll(&ended, 1, -1);
  }
  if (!open_gate.empty()) (void)::send(kGate, open_gate.data(), open_gate.size(), 0);
  [[maybe_unused]] const ssize_t thawed = ::write(kThaw, "0", 1);
  ::_exit(0);
}

}  // namespace

Result<std::unique_ptr<FreezeGuard>> FreezeGuard::launch(const std::string& group, pid_t criu,
                                                         const GateUndo& gate) {
  const Fd thaw(::open((group + "/cgroup.freeze").c_str(), O_WRONLY | O_CLOEXEC));
  if (!thaw) {
    return make_errno_error(ErrorCode::kPermission, errno, "cannot thaw the tree's cgroup " + group)
        .advise("run as root");
  }
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, criu, 0)));
  std::array<int, 2> ends{};
  if (!process || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot guard the tree while it stands");
  }
  const Fd theirs(ends[0]);
  Fd words(ends[1]);
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  // Before the fork: a terminal's or a service manager's farewell to this process is none to it.
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t child = ::fork();
  const int error = errno;
  // Without a gate its place is taken by what is there anyway.
  const int opener = gate.socket >= 0 ? gate.socket : thaw.get();
  if (child == 0) guard({theirs.get(), thaw.get(), process.get(), opener}, gate.message);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (child < 0) {
    return make_errno_error(ErrorCode::kNoMemory, error, "cannot guard the tree while it stands")
        .advise("raise this host's limit of processes: ulimit -u, pids.max");
  }
  return std::unique_ptr<FreezeGuard>(new FreezeGuard(std::move(words), child));
}

FreezeGuard::~FreezeGuard() {
  ::send(words_.get(), &kGoHome, 1, MSG_NOSIGNAL);
  words_.reset();
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void FreezeGuard::committing() noexcept { ::send(words_.get(), &kLeaveFrozen, 1, MSG_NOSIGNAL); }

}  // namespace migrate::containers
