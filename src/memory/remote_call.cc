#include "memory/remote_call.hpp"

#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <string>
#include <utility>

#include "memory/process_status.hpp"
#include "memory/syscall_instruction.hpp"

namespace migrate {

#if defined(__x86_64__)
namespace {

// ptrace requests that older C libraries lack; numbers and layouts as in Linux's
// include/uapi/linux/ptrace.h and include/uapi/linux/rseq.h.
constexpr int kGetSigmask = 0x420a;              // PTRACE_GETSIGMASK
constexpr int kSetSigmask = 0x420b;              // PTRACE_SETSIGMASK
constexpr int kGetRseqConfiguration = 0x420f;    // PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13
constexpr int kGetSyscallUserDispatch = 0x4211;  // PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, 6.4
constexpr std::uint64_t kAllSignals = ~std::uint64_t{0};  // The kernel leaves KILL and STOP out.
constexpr std::uint64_t kNoSystemCall = ~std::uint64_t{0};

// Putting a thread back must not fail for want of time.
constexpr std::chrono::seconds kRestoreTime{5};

struct RseqConfiguration {  // struct ptrace_rseq_configuration
  std::uint64_t address;
  std::uint32_t size;
  std::uint32_t signature;
  std::uint32_t flags;
  std::uint32_t pad;
};
struct RseqSection {  // struct rseq_cs
  std::uint32_t version;
  std::uint32_t flags;
  std::uint64_t start;
  std::uint64_t length;
  std::uint64_t abort;
};
constexpr std::uint64_t kRseqSectionOffset = 8;  // Of struct rseq's rseq_cs.

struct DispatchConfiguration {  // struct ptrace_sud_config
  std::uint64_t mode;
  std::uint64_t selector;
  std::uint64_t offset;
  std::uint64_t length;
};

void* as_pointer(std::uint64_t value) { return reinterpret_cast<void*>(value); }

/// A thread in a restartable sequence is sent to the sequence's abort handler, which is what the
/// kernel does with one that it interrupts. The kernel itself would miss it: by the time it looks,
/// the thread is at the injected call, out of the sequence.
void abort_restartable_sequence(const TracedThread& thread, user_regs_struct& registers) {
  RseqConfiguration configuration{};
  if (!thread.request(kGetRseqConfiguration, as_pointer(sizeof(configuration)), &configuration,
                      "PTRACE_GET_RSEQ_CONFIGURATION") ||
      configuration.address == 0) {
    return;
  }
  std::uint64_t at = 0;
  RseqSection section{};
  if (!read_foreign(thread.tid(), configuration.address + kRseqSectionOffset, &at, sizeof(at)) ||
      at == 0 || !read_foreign(thread.tid(), at, &section, sizeof(section))) {
    return;
  }
  if (registers.rip - section.start < section.length) registers.rip = section.abort;
}

/// Wine and the like have system calls from outside a range turned into SIGSYS.
bool dispatches_calls(const TracedThread& thread) {
  DispatchConfiguration configuration{};
  return thread.request(kGetSyscallUserDispatch, as_pointer(sizeof(configuration)), &configuration,
                        "PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG") &&
         configuration.mode != 0;
}

}  // namespace

Result<RemoteCalls> RemoteCalls::begin(TracedThread& thread, pid_t pid, Deadline deadline) {
  const std::string process = "process " + std::to_string(pid);
  if (!thread.unfiltered()) {
    return make_error(ErrorCode::kPermission,
                      process + " filters its system calls (seccomp), so none is made in it")
        .advise("run with CAP_SYS_ADMIN on a kernel with CONFIG_CHECKPOINT_RESTORE");
  }
  if (dispatches_calls(thread)) {
    return make_error(ErrorCode::kUnsupported,
                      process + " dispatches its own system calls (PR_SET_SYSCALL_USER_DISPATCH)");
  }
  MIGRATE_ASSIGN(user_regs_struct registers, thread.registers());
  MIGRATE_ASSIGN(const std::uint64_t instruction,
                 find_syscall_instruction(thread.tid(), registers));
  abort_restartable_sequence(thread, registers);
  std::uint64_t mask = 0;
  MIGRATE_TRY(thread.request(kGetSigmask, as_pointer(sizeof(mask)), &mask, "PTRACE_GETSIGMASK"));
  RemoteCalls calls(thread, registers, mask, instruction, deadline);
  std::uint64_t all = kAllSignals;
  MIGRATE_TRY(thread.request(kSetSigmask, as_pointer(sizeof(all)), &all, "PTRACE_SETSIGMASK"));
  return calls;
}

RemoteCalls::RemoteCalls(RemoteCalls&& other) noexcept
    : thread_(std::exchange(other.thread_, nullptr)),
      saved_(other.saved_),
      saved_mask_(other.saved_mask_),
      instruction_(other.instruction_),
      deadline_(other.deadline_) {}

RemoteCalls::~RemoteCalls() {
  if (thread_ != nullptr) (void)restore();
}

/// Stops that are nothing to us: those of a stopped process, and signals that cannot be blocked. A
/// signal that was already on its way is passed on and, as it is blocked now, queued again by the
/// kernel with all it carries.
Status RemoteCalls::run_to_syscall_stop() {
  int signal = 0;
  for (;;) {
    MIGRATE_TRY(thread_->run(true, signal));
    MIGRATE_ASSIGN(const TracedThread::Stop stop, thread_->next_stop(deadline_));
    if (stop.kind == TracedThread::StopKind::kSyscall) return {};
    signal = stop.kind == TracedThread::StopKind::kSignal ? stop.signal : 0;
  }
}

Result<long> RemoteCalls::call(long number, const std::array<std::uint64_t, 3>& arguments) {
  user_regs_struct registers = saved_;
  registers.rip = instruction_;
  registers.rax = static_cast<unsigned long long>(number);
  registers.orig_rax = kNoSystemCall;
  registers.rdi = arguments[0];
  registers.rsi = arguments[1];
  registers.rdx = arguments[2];
  MIGRATE_TRY(thread_->set_registers(registers));
  MIGRATE_TRY(run_to_syscall_stop());
  MIGRATE_ASSIGN(const user_regs_struct entered, thread_->registers());
  if (entered.orig_rax != static_cast<unsigned long long>(number) ||
      static_cast<long>(entered.rax) != -ENOSYS) {
    return make_error(ErrorCode::kInternal, "the injected system call did not begin in " +
                                                std::to_string(thread_->tid()));
  }
  MIGRATE_TRY(run_to_syscall_stop());
  MIGRATE_ASSIGN(const user_regs_struct done, thread_->registers());
  return static_cast<long>(done.rax);
}

/// Brings the thread to a stop of kind kHeld, the only one from which the system call that was
/// interrupted goes on.
Status RemoteCalls::hold_again() {
  const Deadline deadline = std::max(deadline_, std::chrono::steady_clock::now() + kRestoreTime);
  MIGRATE_TRY(thread_->interrupt());
  if (thread_->stopped()) MIGRATE_TRY(skip_system_call());
  for (int signal = 0;;) {
    if (thread_->stopped()) MIGRATE_TRY(thread_->run(false, signal));
    MIGRATE_ASSIGN(const TracedThread::Stop stop, thread_->next_stop(deadline));
    if (stop.kind == TracedThread::StopKind::kHeld) return {};
    signal = stop.kind == TracedThread::StopKind::kSignal ? stop.signal : 0;
    if (stop.kind == TracedThread::StopKind::kSyscall) MIGRATE_TRY(skip_system_call());
    MIGRATE_TRY(thread_->interrupt());
  }
}

/// At a call's entry: it does nothing. At its exit this changes nothing.
Status RemoteCalls::skip_system_call() {
  MIGRATE_ASSIGN(user_regs_struct registers, thread_->registers());
  registers.orig_rax = kNoSystemCall;
  return thread_->set_registers(registers);
}

Status RemoteCalls::restore() {
  MIGRATE_TRY(hold_again());
  MIGRATE_TRY(thread_->set_registers(saved_));
  return thread_->request(kSetSigmask, as_pointer(sizeof(saved_mask_)), &saved_mask_,
                          "PTRACE_SETSIGMASK");
}

#endif

}  // namespace migrate
