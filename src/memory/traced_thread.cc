// How the kernel takes up a system call that ptrace interrupted (arch_do_signal_or_restart() in
// Linux's arch/x86/kernel/signal.c): a thread held at a PTRACE_EVENT_STOP is on its way back to its
// own code. If by then orig_rax is a system call's number and rax one of the kernel's restart
// codes, the call is begun again or, where a signal's handler has to run first, made to return
// EINTR as it would have anyhow. So whoever puts all registers back at such a stop, orig_rax among
// them, changes nothing. At a stop at a system call's exit the kernel does not look again: never
// detach there.
#include "memory/traced_thread.hpp"

#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <elf.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "memory/process_status.hpp"

namespace migrate {
namespace {

constexpr unsigned long kTraceSysGood = 0x1;         // PTRACE_O_TRACESYSGOOD
constexpr unsigned long kSuspendSeccomp = 1U << 21;  // PTRACE_O_SUSPEND_SECCOMP
constexpr int kEventStop = 128;                      // PTRACE_EVENT_STOP
constexpr int kSyscallStop = SIGTRAP | 0x80;

// A stop takes some 20 us; only a thread that waits for a processor takes longer.
constexpr int kImpatientLooks = 200;
constexpr long kPatientLookNs = 50'000;

// The kernel's own code (include/linux/errno.h): begin again, but EINTR if a handler ran.
constexpr auto kRestartUnlessHandler = static_cast<unsigned long long>(-514L);  // -ERESTARTNOHAND

#if defined(__x86_64__)
/// Calls that return EINTR when their thread is stopped and set going again, without any handler
/// (signal(7), "Interruption of system calls and library functions by stop signals"), and those
/// that can on a socket with a time limit. All of them have done nothing yet when they return it,
/// and may be made again.
constexpr auto kBegunAgain = std::to_array<long>({
    SYS_epoll_wait,      SYS_epoll_pwait,  SYS_epoll_pwait2,  SYS_semop,          SYS_semtimedop,
    SYS_rt_sigtimedwait, SYS_io_getevents, SYS_io_pgetevents, SYS_io_uring_enter, SYS_read,
    SYS_readv,           SYS_recvfrom,     SYS_recvmsg,       SYS_recvmmsg,       SYS_write,
    SYS_writev,          SYS_sendto,       SYS_sendmsg,       SYS_sendmmsg,       SYS_accept,
    SYS_accept4,         SYS_connect,
});
#endif

std::string thread_name(pid_t pid, pid_t tid) {
  return "thread " + std::to_string(tid) + " of process " + std::to_string(pid);
}

/// Why the kernel refused to attach.
Error attach_error(pid_t pid, pid_t tid, int error) {
  const std::string name = thread_name(pid, tid);
  const auto status = thread_status(pid, tid);
  if (!status && status.error().code == ErrorCode::kNotFound) error = ESRCH;
  if (status && (status->state == 'Z' || status->state == 'X')) error = ESRCH;
  if (error == ESRCH) return make_errno_error(ErrorCode::kNotFound, error, name + " has ended");
  if (status && status->tracer != 0) {
    return make_errno_error(
               ErrorCode::kBusy, error,
               name + " is traced by process " + std::to_string(status->tracer) + " already")
        .advise("end the debugger or tracer that is attached to it");
  }
  if (error == EPERM || error == EACCES) {
    return make_errno_error(ErrorCode::kPermission, error, name + " may not be traced")
        .advise("run as the same user or with CAP_SYS_PTRACE; see kernel.yama.ptrace_scope");
  }
  return make_errno_error(ErrorCode::kIo, error, name + " could not be attached");
}

}  // namespace

Status on_tracer_thread(const std::function<Status()>& work) {
  Status result;
  try {
    std::jthread tracer([&] { result = work(); });
    pthread_setname_np(tracer.native_handle(), "mig-tracer");
  } catch (const std::system_error& failed) {
    return make_errno_error(ErrorCode::kNoMemory, failed.code().value(),
                            "no thread could be started to trace with");
  }
  return result;
}

Result<TracedThread> TracedThread::attach(pid_t pid, pid_t tid) {
#if defined(__x86_64__)
  MIGRATE_ASSIGN(const ThreadStatus status, thread_status(pid, tid));
  bool unfiltered = true;
  if (status.tracer != 0) {
    // This very thread's, from an attempt before: it ended and its parent has not looked yet.
    return attach_error(pid, tid, status.tracer == ::gettid() ? ESRCH : EPERM);
  }
  if (::ptrace(PTRACE_SEIZE, tid, nullptr, kTraceSysGood | kSuspendSeccomp) != 0) {
    // Suspending filters needs CAP_SYS_ADMIN and a kernel built for it.
    if (::ptrace(PTRACE_SEIZE, tid, nullptr, kTraceSysGood) != 0) {
      return attach_error(pid, tid, errno);
    }
    // Looked at only now: a filter set before the stop counts.
    const auto now = thread_status(pid, tid);
    unfiltered = now && now->seccomp_mode == 0;
  }
  TracedThread thread(pid, tid, unfiltered);
  MIGRATE_TRY(thread.interrupt());
  return thread;
#else
  return make_error(ErrorCode::kUnsupported,
                    thread_name(pid, tid) + " cannot be stopped: that is built for x86-64 only");
#endif
}

TracedThread::TracedThread(TracedThread&& other) noexcept
    : pid_(other.pid_),
      tid_(std::exchange(other.tid_, 0)),
      unfiltered_(other.unfiltered_),
      stopped_(std::exchange(other.stopped_, false)) {}

TracedThread::~TracedThread() {
  // One that does not stop cannot be detached here; the end of the tracer's thread does that.
  if (tid_ != 0 && stopped_) ::ptrace(PTRACE_DETACH, tid_, nullptr, nullptr);
}

Error TracedThread::vanished(int error) const {
  return make_errno_error(ErrorCode::kNotFound, error,
                          thread_name(pid_, tid_) + " ended while it was traced");
}

Status TracedThread::request(int what, void* address, void* data, const char* name) const {
  // Some requests answer with a length.
  if (::ptrace(static_cast<__ptrace_request>(what), tid_, address, data) != -1) return {};
  if (errno == ESRCH) return vanished(errno);
  return make_errno_error(ErrorCode::kIo, errno,
                          std::string(name) + " failed on " + thread_name(pid_, tid_));
}

Status TracedThread::interrupt() {
  return request(PTRACE_INTERRUPT, nullptr, nullptr, "PTRACE_INTERRUPT");
}

Status TracedThread::run(bool to_syscall, int signal) {
  const auto data = reinterpret_cast<void*>(static_cast<std::uintptr_t>(signal));
  MIGRATE_TRY(request(to_syscall ? PTRACE_SYSCALL : PTRACE_CONT, nullptr, data, "resuming"));
  stopped_ = false;
  return {};
}

Result<TracedThread::Stop> TracedThread::next_stop(Deadline deadline) {
  for (int looks = 0;; ++looks) {
    // Looked at, not taken: how it ended is for its parent to learn, who may be this very process.
    siginfo_t info{};
    const int waited = ::waitid(P_PID, static_cast<id_t>(tid_), &info,
                                WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL);
    if (waited != 0 && errno == ECHILD) return vanished(ESRCH);
    if (waited == 0 && info.si_pid == tid_) {
      if (info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED) return vanished(ESRCH);
      stopped_ = true;
      if (info.si_status == kSyscallStop) return Stop{StopKind::kSyscall, 0};
      if ((info.si_status >> 8) == kEventStop) return Stop{StopKind::kHeld, 0};
      return Stop{StopKind::kSignal, info.si_status & 0xff};
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return make_error(ErrorCode::kTimeout, thread_name(pid_, tid_) + " did not stop in time")
          .advise("it may wait for a disk or be frozen by its cgroup: try again once it runs");
    }
    if (looks < kImpatientLooks) {
      ::sched_yield();
    } else {
      const timespec pause{0, kPatientLookNs};
      ::nanosleep(&pause, nullptr);
    }
  }
}

Status TracedThread::wait_stopped(Deadline deadline) {
  for (;;) {
    MIGRATE_ASSIGN(const Stop stop, next_stop(deadline));
    if (stop.kind == StopKind::kHeld) return resume_interrupted_call();
    // A signal was being delivered already. It is let through, its handler's frame is made, and the
    // stop asked for here comes before the handler's first instruction.
    MIGRATE_TRY(interrupt());
    MIGRATE_TRY(run(false, stop.signal));
  }
}

Status TracedThread::resume_interrupted_call() {
#if defined(__x86_64__)
  MIGRATE_ASSIGN(user_regs_struct registers, this->registers());
  if (static_cast<long>(registers.rax) != -EINTR) return {};
  const bool again = std::find(kBegunAgain.begin(), kBegunAgain.end(),
                               static_cast<long>(registers.orig_rax)) != kBegunAgain.end();
  if (!again) return {};
  registers.rax = kRestartUnlessHandler;
  return set_registers(registers);
#else
  return {};
#endif
}

Result<user_regs_struct> TracedThread::registers() const {
  user_regs_struct registers{};
  iovec place{&registers, sizeof(registers)};
  MIGRATE_TRY(request(PTRACE_GETREGSET, reinterpret_cast<void*>(NT_PRSTATUS), &place,
                      "reading the registers"));
  if (place.iov_len != sizeof(registers)) {
    return make_error(ErrorCode::kUnsupported,
                      thread_name(pid_, tid_) + " runs 32-bit code, which is not supported");
  }
  return registers;
}

Status TracedThread::set_registers(const user_regs_struct& registers) {
  iovec place{const_cast<user_regs_struct*>(&registers), sizeof(registers)};
  return request(PTRACE_SETREGSET, reinterpret_cast<void*>(NT_PRSTATUS), &place,
                 "writing the registers");
}

}  // namespace migrate
