// System calls made inside another process.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <functional>

#include "base/fd.hpp"
#include "memory/traced_thread.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Makes a held thread do system calls. No code of the process is changed: the thread is pointed at
/// a system call instruction that is there already. Its signals wait meanwhile. When this object
/// goes, whatever failed before, registers and signal mask are as they were and the thread is held
/// again. Only if this process is killed within (some 0.1 ms) that cannot be kept.
class RemoteCalls {
 public:
  /// `thread` has stopped and stays the caller's. kUnsupported when the process has no such
  /// instruction or dispatches its own calls, kPermission when it has a seccomp filter that cannot
  /// be suspended.
  static Result<RemoteCalls> begin(TracedThread& thread, pid_t pid, Deadline deadline);
  RemoteCalls(RemoteCalls&& other) noexcept;
  RemoteCalls& operator=(RemoteCalls&&) = delete;
  ~RemoteCalls();

  /// What the kernel answered: a value, or a negative errno.
  Result<long> call(long number, const std::array<std::uint64_t, 3>& arguments);

 private:
  RemoteCalls(TracedThread& thread, const user_regs_struct& registers, std::uint64_t mask,
              std::uint64_t instruction, Deadline deadline)
      : thread_(&thread),
        saved_(registers),
        saved_mask_(mask),
        instruction_(instruction),
        deadline_(deadline) {}
  Status run_to_syscall_stop();
  Status hold_again();
  Status skip_system_call();
  Status restore();

  TracedThread* thread_;
  user_regs_struct saved_;
  std::uint64_t saved_mask_;   ///< Blocked signals.
  std::uint64_t instruction_;  ///< Where a system call instruction is.
  Deadline deadline_;
};

/// Calls `work` with a thread of `pid` that can make calls, chosen so that its own business is
/// disturbed least; that thread goes on when it returns. kNotFound without such a process (or once
/// it has ended), kBusy when it is traced already, kPermission, kUnsupported, kTimeout when no
/// thread could be stopped within about two seconds.
Status with_remote_calls(pid_t pid, const std::function<Status(RemoteCalls&, pid_t tid)>& work);

/// A userfaultfd of the memory of `pid`, made inside it and closed there. Not yet spoken to. One
/// thread of the process stands still for about 0.1 ms. Errors as above; kUnsupported where the
/// kernel has none.
Result<Fd> userfaultfd_of(pid_t pid);

/// Stops every thread of `pid`, calls `work` (on another thread than the caller's), and lets them
/// go on. Errors as above.
Status with_process_stopped(pid_t pid, const std::function<Status()>& work);

}  // namespace migrate
