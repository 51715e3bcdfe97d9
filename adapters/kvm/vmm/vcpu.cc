#include "adapters/kvm/vmm/vcpu.hpp"

#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <system_error>

namespace migrate::vmm {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

// Throttling: a vCPU runs for its part of this, is held for the rest, and so on. Short enough that
// a guest's timers hardly notice, long against a kick (0.2 ms measured).
constexpr nanoseconds kThrottlePeriod = std::chrono::milliseconds(10);
constexpr nanoseconds kRunSliceMin = std::chrono::microseconds(100);
constexpr nanoseconds kHoldMax = std::chrono::milliseconds(10);

nanoseconds run_slice(double share) {
  const auto slice = std::chrono::duration_cast<nanoseconds>(kThrottlePeriod * (1 - share));
  return std::max(slice, kRunSliceMin);
}

/// How long a vCPU that has run for `ran` is held, so that `share` of the sum is withheld.
nanoseconds hold_after(nanoseconds ran, double share) {
  return std::min(std::chrono::duration_cast<nanoseconds>(ran * (share / (1 - share))), kHoldMax);
}

std::string hex(std::uint64_t value) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  do {
    text.insert(text.begin(), kDigits[value % 16]);
  } while ((value /= 16) != 0);
  return "0x" + text;
}

std::string registers(int vcpu_fd) {
  kvm_regs regs{};
  kvm_sregs sregs{};
  if (::ioctl(vcpu_fd, KVM_GET_REGS, &regs) != 0 || ::ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) != 0) {
    return "its registers cannot be read";
  }
  return "rip " + hex(regs.rip) + " rsp " + hex(regs.rsp) + " rflags " + hex(regs.rflags) +
         " rax " + hex(regs.rax) + " rbx " + hex(regs.rbx) + " rcx " + hex(regs.rcx) + " rdx " +
         hex(regs.rdx) + " rsi " + hex(regs.rsi) + " rdi " + hex(regs.rdi) + " rbp " +
         hex(regs.rbp) + " cr0 " + hex(sregs.cr0) + " cr2 " + hex(sregs.cr2) + " cr3 " +
         hex(sregs.cr3) + " cr4 " + hex(sregs.cr4) + " efer " + hex(sregs.efer);
}

}  // namespace

Vcpu::Vcpu(std::uint32_t id, const VcpuFd& fd, VcpuEvents& events,
           std::shared_ptr<KvmDirtyRing> ring)
    : id_(id), fd_(fd), events_(events), ring_(std::move(ring)) {}

Vcpu::~Vcpu() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(mutex_);
    quit_ = true;
  }
  ask_to_park();
  thread_.join();
}

Status Vcpu::start() {
  MIGRATE_TRY(let_kicks_into_run(fd_.get()));
  const SignalsBlocked blocked;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    return make_errno_error(ErrorCode::kIo, error.code().value(), "cannot start a vCPU's thread")
        .advise("raise the limit of processes (ulimit -u)");
  }
  pthread_setname_np(thread_.native_handle(), ("vcpu" + std::to_string(id_)).c_str());
  return {};
}

void Vcpu::let_run() {
  MutexLock lock(mutex_);
  may_run_ = true;
  changed_.notify_all();
}

void Vcpu::ask_to_park() {
  MutexLock lock(mutex_);
  may_run_ = false;
  changed_.notify_all();
  if (parked_) return;
  // The flag for a thread that is about to enter, the signal for one that is in.
  set_immediate_exit(true);
  pthread_kill(thread_.native_handle(), kick_signal());
}

bool Vcpu::wait_parked(SteadyTime deadline) {
  MutexLock lock(mutex_);
  while (!parked_) {
    if (!changed_.wait_until(mutex_, deadline)) return parked_;
  }
  return true;
}

SteadyTime Vcpu::parked_at() const {
  MutexLock lock(mutex_);
  return parked_at_;
}

void Vcpu::throttle(double share) {
  MutexLock lock(mutex_);
  share_ = std::clamp(share, 0.0, kShareMax);
  changed_.notify_all();
  // It may be in the guest without a timer.
  if (!parked_) pthread_kill(thread_.native_handle(), kick_signal());
}

nanoseconds Vcpu::cpu_time() const {
  clockid_t clock{};
  timespec time{};
  // native_handle() only reads.
  if (pthread_getcpuclockid(const_cast<std::thread&>(thread_).native_handle(), &clock) != 0 ||
      clock_gettime(clock, &time) != 0) {
    return nanoseconds(0);
  }
  return std::chrono::seconds(time.tv_sec) + nanoseconds(time.tv_nsec);
}

int Vcpu::thread_id() {
  MutexLock lock(mutex_);
  while (thread_id_ == 0) changed_.wait(mutex_);
  return thread_id_;
}

void Vcpu::run() {
  {
    MutexLock lock(mutex_);
    thread_id_ = static_cast<int>(::syscall(SYS_gettid));
    changed_.notify_all();
  }
  while (wait_for_leave()) {
    if (enter_guest() == 0) {
      handle_exit();
    } else if (errno == EINTR || errno == EAGAIN) {
      exit_pending_ = false;
      take_kicks();
    } else {
      crash("KVM_RUN failed", errno);
    }
    hold_if_due();
  }
}

/// Parks until the vCPU may run; false when the thread shall end. An exit that is pending goes
/// back into the kernel first: with immediate_exit set, KVM_RUN completes it and returns EINTR.
bool Vcpu::wait_for_leave() {
  MutexLock lock(mutex_);
  while (!may_run_ && !exit_pending_ && !quit_) {
    if (!parked_) {
      parked_ = true;
      parked_at_ = steady_clock::now();
      changed_.notify_all();
    }
    changed_.wait(mutex_);
  }
  parked_ = quit_;
  if (quit_) return false;
  share_now_ = share_;
  set_immediate_exit(!may_run_);
  return true;
}

int Vcpu::enter_guest() {
  if (share_now_ == 0) return ::ioctl(fd_.get(), KVM_RUN, 0);
  timer_.arm(std::max(run_slice(share_now_) - ran_, nanoseconds(1)));
  const auto entered = steady_clock::now();
  const int result = ::ioctl(fd_.get(), KVM_RUN, 0);
  const int error = errno;
  ran_ += steady_clock::now() - entered;
  errno = error;
  return result;
}

void Vcpu::hold_if_due() {
  if (share_now_ == 0) {
    ran_ = nanoseconds(0);
    return;
  }
  if (ran_ < run_slice(share_now_)) return;
  const SteadyTime end = steady_clock::now() + hold_after(ran_, share_now_);
  ran_ = nanoseconds(0);
  MutexLock lock(mutex_);
  while (may_run_ && !quit_ && share_ == share_now_) {
    if (!changed_.wait_until(mutex_, end)) return;
  }
}

void Vcpu::sleep_for(nanoseconds time) {
  const SteadyTime end = steady_clock::now() + time;
  MutexLock lock(mutex_);
  while (may_run_ && !quit_) {
    if (!changed_.wait_until(mutex_, end)) return;
  }
}

void Vcpu::handle_exit() {
  const kvm_run& run = *fd_.run();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      return handle_port();
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return;
    case KVM_EXIT_DIRTY_RING_FULL:
      return handle_full_ring();
    case KVM_EXIT_SYSTEM_EVENT:
      return handle_system_event();
    case KVM_EXIT_MMIO:
      return handle_memory();
    case KVM_EXIT_SHUTDOWN:
      return crash("a fault while it handled faults (triple fault)");
    case KVM_EXIT_HLT:
      return crash("it halted without an interrupt controller");
    case KVM_EXIT_FAIL_ENTRY:
      return crash("the processor refused its state, reason " +
                   hex(run.fail_entry.hardware_entry_failure_reason));
    case KVM_EXIT_INTERNAL_ERROR:
      return crash("KVM cannot go on, internal error " + std::to_string(run.internal.suberror));
    default:
      return crash("KVM left it for reason " + std::to_string(run.exit_reason));
  }
}

void Vcpu::handle_port() {
  exit_pending_ = true;
  const auto& io = fd_.run()->io;
  std::byte* data = reinterpret_cast<std::byte*>(fd_.run()) + io.data_offset;
  std::chrono::microseconds wait{0};
  for (std::uint32_t i = 0; i < io.count; ++i, data += io.size) {
    const std::span bytes(data, io.size);
    if (io.direction == KVM_EXIT_IO_IN) {
      events_.on_port_read(io.port, bytes);
    } else {
      wait = std::max(wait, events_.on_port_write(id_, io.port, bytes));
    }
  }
  if (wait.count() > 0) sleep_for(wait);
}

void Vcpu::handle_memory() {
  auto& access = fd_.run()->mmio;
  const std::span bytes(reinterpret_cast<std::byte*>(access.data),
                        std::min<std::size_t>(access.len, sizeof access.data));
  const bool answered = access.is_write != 0 ? events_.on_memory_write(access.phys_addr, bytes)
                                             : events_.on_memory_read(access.phys_addr, bytes);
  if (!answered) {
    return crash("it accessed address " + hex(access.phys_addr) + ", where nothing is");
  }
  exit_pending_ = true;
}

/// Here and now, with no lock held: a pause or a collect may be waiting for this vCPU.
void Vcpu::handle_full_ring() {
  // The entry that found the ring full has completed the exit before it.
  exit_pending_ = false;
  if (ring_ == nullptr) return crash("KVM found a dirty ring full that was never asked for");
  if (const Status emptied = ring_->on_ring_full(id_); !emptied) {
    crash("its dirty ring cannot be emptied: " + emptied.error().message,
          emptied.error().sys_errno);
  }
}

void Vcpu::handle_system_event() {
  if (fd_.run()->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN) return events_.on_shutdown(id_);
  crash("it asked for system event " + std::to_string(fd_.run()->system_event.type));
}

void Vcpu::crash(const std::string& what, int sys_errno) {
  exit_pending_ = false;
  events_.on_crash(id_, make_errno_error(ErrorCode::kGuest, sys_errno,
                                         "the guest crashed on vCPU " + std::to_string(id_) + ": " +
                                             what + "; " + registers(fd_.get())));
}

void Vcpu::set_immediate_exit(bool on) {
  // The kernel reads it, too.
  std::atomic_ref<__u8>(fd_.run()->immediate_exit).store(on ? 1 : 0);
}

}  // namespace migrate::vmm
