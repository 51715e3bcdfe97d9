// TracedThread: a thread of another process, held by ptrace and let go as it was.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <chrono>
#include <functional>

#include "migrate/result.hpp"

namespace migrate {

using Deadline = std::chrono::steady_clock::time_point;

/// Runs `work` on a thread of its own and waits for it. ptrace ties a tracee to the thread that
/// attached it, and the kernel detaches all tracees of a thread that ends, even ones that cannot be
/// stopped at the moment: so nothing stays attached, whatever `work` met with.
Status on_tracer_thread(const std::function<Status()>& work);

/// Held without a trace of it left behind:
/// - no signal is sent to the thread; one that is on its way is delivered as it would have been;
/// - a thread in a stopped process (SIGSTOP) stays stopped and goes on by SIGCONT;
/// - a system call that was interrupted goes on. Those that would return EINTR although no handler
///   ran (signal(7): epoll_wait, semop, sockets with a time limit) are begun again; a relative time
///   limit of theirs starts anew.
///
/// Use by one thread, within on_tracer_thread(). Another thread of this process that waits for any
/// child (waitpid(-1)) may take the reports of stops away and so make stop() run into its deadline.
class TracedThread {
 public:
  /// Attaches and asks it to stop; wait_stopped() waits for that. kNotFound when there is no such
  /// thread (any more), kBusy when it is traced already, kPermission.
  static Result<TracedThread> attach(pid_t pid, pid_t tid);
  TracedThread(TracedThread&& other) noexcept;
  TracedThread& operator=(TracedThread&&) = delete;
  /// Lets the thread go on.
  ~TracedThread();

  /// kTimeout, kNotFound (it ended), kUnsupported (32-bit code).
  Status wait_stopped(Deadline deadline);

  [[nodiscard]] pid_t tid() const { return tid_; }
  [[nodiscard]] bool stopped() const { return stopped_; }
  /// System calls are not filtered while it is attached: it had no seccomp filter, or that is
  /// suspended.
  [[nodiscard]] bool unfiltered() const { return unfiltered_; }

  /// What a thread can stop for.
  enum class StopKind { kHeld, kSyscall, kSignal };
  struct Stop {
    StopKind kind = StopKind::kHeld;
    int signal = 0;  ///< Of kSignal.
  };
  /// Waits for the next stop after run().
  Result<Stop> next_stop(Deadline deadline);
  /// Lets it run, to the next system call's entry or exit if `to_syscall`, with `signal` delivered.
  Status run(bool to_syscall, int signal);
  /// Asks for a stop of kind kHeld; it comes before the thread runs any of its own code.
  Status interrupt();

  Result<user_regs_struct> registers() const;
  Status set_registers(const user_regs_struct& registers);
  /// A ptrace request that reads or writes something of the stopped thread.
  Status request(int what, void* address, void* data, const char* name) const;

 private:
  TracedThread(pid_t pid, pid_t tid, bool unfiltered)
      : pid_(pid), tid_(tid), unfiltered_(unfiltered) {}
  Status resume_interrupted_call();
  Error vanished(int error) const;

  pid_t pid_ = 0;
  pid_t tid_ = 0;  ///< 0 once moved from.
  bool unfiltered_ = false;
  bool stopped_ = false;
};

}  // namespace migrate
