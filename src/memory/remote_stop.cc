// Which thread of a process is asked to make calls, and all of them stopped at once.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <deque>
#include <string>
#include <string_view>

#include "memory/process_status.hpp"
#include "memory/remote_call.hpp"

namespace migrate {
namespace {

using std::chrono::steady_clock;

// A thread that can run stops in microseconds; on a crowded host it waits for its turn, some 100 ms
// at worst. After that another thread is tried.
constexpr std::chrono::milliseconds kStopOneMax{500};
constexpr std::chrono::seconds kStopMax{2};

constexpr unsigned kUserModeOnly = 1;      // UFFD_USER_MODE_ONLY, Linux 5.11.
constexpr unsigned kPidfdThread = O_EXCL;  // PIDFD_THREAD, Linux 6.9.

/// Lower is better: a thread at work loses least; one in a call that has to be begun again may wait
/// anew; one in uninterruptible sleep may not stop for long; a zombie cannot at all.
int reluctance(pid_t pid, pid_t tid) {
  const auto status = thread_status(pid, tid);
  if (!status || status->state == 'Z' || status->state == 'X') return 100;
  if (status->state == 'D') return 50;
  if (status->state == 'R') return 0;
  const auto call =
      read_proc_file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/syscall");
  long number = -1;
  if (call) std::from_chars(call->data(), call->data() + call->size(), number);
  return number == SYS_futex || number == SYS_poll || number == SYS_clock_nanosleep ? 1 : 2;
}

/// The threads that can be asked, best first.
Result<std::vector<pid_t>> candidates(pid_t pid) {
  MIGRATE_ASSIGN(const std::vector<pid_t> threads, threads_of(pid));
  std::vector<std::pair<int, pid_t>> ranked;
  for (const pid_t tid : threads) {
    if (const int rank = reluctance(pid, tid); rank < 100) ranked.emplace_back(rank, tid);
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<pid_t> result;
  for (const auto& [rank, tid] : ranked) result.push_back(tid);
  return result;
}

Error ended(pid_t pid) {
  return make_errno_error(ErrorCode::kNotFound, ESRCH,
                          "process " + std::to_string(pid) + " has ended");
}

Status call_on(pid_t pid, pid_t tid, Deadline deadline,
               const std::function<Status(RemoteCalls&, pid_t)>& work, bool& begun) {
  MIGRATE_ASSIGN(TracedThread thread, TracedThread::attach(pid, tid));
  MIGRATE_TRY(thread.wait_stopped(std::min(deadline, steady_clock::now() + kStopOneMax)));
  MIGRATE_ASSIGN(RemoteCalls calls, RemoteCalls::begin(thread, pid, deadline));
  begun = true;
  return work(calls, tid);
}

Status call_on_any(pid_t pid, const std::function<Status(RemoteCalls&, pid_t)>& work) {
  const Deadline deadline = steady_clock::now() + kStopMax;
  Status last = ended(pid);
  do {
    MIGRATE_ASSIGN(const std::vector<pid_t> threads, candidates(pid));
    if (threads.empty()) return ended(pid);
    for (const pid_t tid : threads) {
      bool begun = false;
      last = call_on(pid, tid, deadline, work, begun);
      // Threads may end at any time; others may be there, or new ones.
      if (last || begun ||
          (last.error().code != ErrorCode::kNotFound && last.error().code != ErrorCode::kTimeout)) {
        return last;
      }
    }
  } while (steady_clock::now() < deadline);
  return last;
}

Error creation_error(pid_t pid, int error) {
  const std::string what = "no userfaultfd can be made in process " + std::to_string(pid);
  switch (error) {
    case ENOSYS:
      return make_errno_error(ErrorCode::kUnsupported, error, what)
          .advise("use a kernel with CONFIG_USERFAULTFD");
    case EMFILE:
    case ENFILE:
      return make_errno_error(ErrorCode::kIo, error, what)
          .advise("raise its limit of open files (prlimit --nofile)");
    case EPERM:
      return make_errno_error(ErrorCode::kPermission, error, what);
    default:
      return make_errno_error(ErrorCode::kIo, error, what);
  }
}

bool is_userfaultfd(const Fd& fd) {
  std::array<char, 64> target{};
  const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  return length > 0 && std::string_view(target.data(), static_cast<std::size_t>(length)) ==
                           "anon_inode:[userfaultfd]";
}

Result<Fd> duplicate_of(pid_t pid, pid_t tid, int number) {
  // A thread may have descriptors of its own (unshare(CLONE_FILES)).
  Fd process(static_cast<int>(::syscall(SYS_pidfd_open, tid, kPidfdThread)));
  if (!process) process.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  Fd fd(process ? static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)) : -1);
  if (!fd) {
    const int error = errno;
    if (error == ESRCH) return ended(pid);
    return make_errno_error(
        error == EPERM ? ErrorCode::kPermission : ErrorCode::kIo, error,
        "the userfaultfd made in process " + std::to_string(pid) + " could not be taken over");
  }
  if (!is_userfaultfd(fd)) {
    return make_error(ErrorCode::kInternal, "process " + std::to_string(pid) +
                                                " gave another descriptor than the one made in it");
  }
  return fd;
}

Result<Fd> create_in(RemoteCalls& calls, pid_t pid, pid_t tid) {
  constexpr std::uint64_t kFlags = O_CLOEXEC | O_NONBLOCK;
  MIGRATE_ASSIGN(long number, calls.call(SYS_userfaultfd, {kFlags, 0, 0}));
  if (number == -EPERM) {
    // Without CAP_SYS_PTRACE of its own; enough to track writes, which never wait for an answer.
    MIGRATE_ASSIGN(number, calls.call(SYS_userfaultfd, {kFlags | kUserModeOnly, 0, 0}));
  }
  if (number < 0) return creation_error(pid, static_cast<int>(-number));
  auto fd = duplicate_of(pid, tid, static_cast<int>(number));
  MIGRATE_ASSIGN(const long closed,
                 calls.call(SYS_close, {static_cast<std::uint64_t>(number), 0, 0}));
  if (closed < 0) return creation_error(pid, static_cast<int>(-closed));
  return fd;
}

/// Attaches the threads that are not in `held` yet and waits for all of them; says whether there
/// were any.
Result<bool> stop_more(pid_t pid, std::deque<TracedThread>& held, Deadline deadline) {
  MIGRATE_ASSIGN(const std::vector<pid_t> threads, threads_of(pid));
  const std::size_t before = held.size();
  for (const pid_t tid : threads) {
    const bool known = std::any_of(held.begin(), held.end(),
                                   [&](const TracedThread& thread) { return thread.tid() == tid; });
    if (known) continue;
    auto thread = TracedThread::attach(pid, tid);
    if (thread) {
      held.push_back(*std::move(thread));
    } else if (thread.error().code != ErrorCode::kNotFound) {
      return std::move(thread).error();
    }
  }
  for (std::size_t i = before; i < held.size(); ++i) {
    Status stopped = held[i].wait_stopped(deadline);
    if (!stopped && stopped.error().code != ErrorCode::kNotFound) return std::move(stopped).error();
  }
  return held.size() > before;
}

}  // namespace

Status with_remote_calls(pid_t pid, const std::function<Status(RemoteCalls&, pid_t tid)>& work) {
  return on_tracer_thread([&] { return call_on_any(pid, work); });
}

Result<Fd> userfaultfd_of(pid_t pid) {
  Fd made;
  MIGRATE_TRY(with_remote_calls(pid, [&](RemoteCalls& calls, pid_t tid) -> Status {
    MIGRATE_ASSIGN(made, create_in(calls, pid, tid));
    return {};
  }));
  return made;
}

Status with_process_stopped(pid_t pid, const std::function<Status()>& work) {
  return on_tracer_thread([&]() -> Status {
    const Deadline deadline = steady_clock::now() + kStopMax;
    std::deque<TracedThread> held;
    // Once all that are listed stand still, none can make another one.
    for (bool more = true; more;) {
      MIGRATE_ASSIGN(more, stop_more(pid, held, deadline));
    }
    if (held.empty()) return ended(pid);
    return work();
  });
}

}  // namespace migrate
