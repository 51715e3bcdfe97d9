#include "adapters/containers/criu/criu_child.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace migrate::containers {
namespace {

[[noreturn]] void give_up(const ChildPlan& plan, ChildFailure::Step step) {
  const ChildFailure failure{step, errno};
  [[maybe_unused]] const auto written = ::write(plan.report, &failure, sizeof failure);
  ::_exit(127);
}

/// Our handlers are code of ours, and the child has our memory: none may run in it. What we ignore
/// the program must not inherit either: with SIGCHLD ignored it never sees its children end.
void reset_signals() {
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) ::sigaction(number, &standard, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

void close_others(const ChildPlan& plan) {
  unsigned from = 0;
  for (const int kept : plan.keep) {
    const auto number = static_cast<unsigned>(kept);
    if (number > from && ::close_range(from, number - 1, 0) != 0) {
      give_up(plan, ChildFailure::Step::kClose);
    }
    from = number + 1;
  }
  if (::close_range(from, ~0U, 0) != 0) give_up(plan, ChildFailure::Step::kClose);
}

/// No PR_SET_PDEATHSIG: a CRIU that dies with us would let go of tasks in the middle of a dump,
/// with its own code mapped in them and sockets under repair. Left to itself it finds the socket
/// closed at its next hook, and undoes what it did. (Where it is killed all the same, the tree's
/// frozen cgroup holds the tasks.)
[[noreturn]] void become_criu(const ChildPlan& plan) {
  // A session of its own: Ctrl-C is for us, who end CRIU in order.
  ::setsid();
  for (const int cgroup : plan.cgroups) {
    if (::write(cgroup, "0", 1) != 1) give_up(plan, ChildFailure::Step::kCgroup);
  }
  for (const auto& [ours, number] : plan.descriptors) {
    if (::dup2(ours, number) < 0) give_up(plan, ChildFailure::Step::kDescriptor);
  }
  close_others(plan);
  reset_signals();
  ::execve(plan.path, plan.arguments, plan.environment);
  give_up(plan, ChildFailure::Step::kExec);
}

Error not_started(const ChildPlan& plan, const ChildFailure& failure) {
  const std::string path = plan.path;
  switch (failure.step) {
    case ChildFailure::Step::kCgroup:
      return make_errno_error(ErrorCode::kPermission, failure.error,
                              "cannot put CRIU into the tree's cgroup")
          .advise("run as root, and see that the cgroup takes processes (cgroup.type, pids.max)");
    case ChildFailure::Step::kDescriptor:
    case ChildFailure::Step::kClose:
      return make_errno_error(ErrorCode::kIo, failure.error, "cannot hand descriptors over to CRIU")
          .advise("raise the limit of open files (ulimit -n)");
    case ChildFailure::Step::kExec:
      break;
  }
  const bool denied = failure.error == EACCES || failure.error == EPERM;
  return make_errno_error(denied ? ErrorCode::kPermission : ErrorCode::kNotFound, failure.error,
                          "cannot run CRIU, " + path)
      .advise("install CRIU 4.1 or newer, or give the path of its program");
}

/// The whole of a failure, or nothing where the program has started: exec closed the pipe.
bool read_failure(int report, ChildFailure& failure) {
  ssize_t got = 0;
  do {
    got = ::read(report, &failure, sizeof failure);
  } while (got < 0 && errno == EINTR);
  return got == static_cast<ssize_t>(sizeof failure);
}

/// By vfork: a target has the guest's memory staged in this process, and copying its page tables
/// for a program that is about to be replaced takes tens of milliseconds a few GiB. Nothing of the
/// caller's may live in registers meanwhile, so this is a function of its own.
[[gnu::noinline]] pid_t start_criu(const ChildPlan& plan) {
  const pid_t pid = ::vfork();  // NOLINT(clang-analyzer-security.insecureAPI.vfork)
  if (pid == 0) become_criu(plan);
  return pid;
}

}  // namespace

Result<pid_t> run_child(const ChildPlan& plan, Fd report_write, int report_read) {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = start_criu(plan);
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) {
    return make_errno_error(ErrorCode::kNoMemory, error, "cannot start a process for CRIU")
        .advise("raise the limit of processes (ulimit -u, pids.max)");
  }
  report_write.reset();
  ChildFailure failure;
  if (!read_failure(report_read, failure)) return pid;
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return not_started(plan, failure);
}

}  // namespace migrate::containers
