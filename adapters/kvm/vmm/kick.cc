#include "adapters/kvm/vmm/kick.hpp"

#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "adapters/kvm/vmm/kvm_api.hpp"

namespace migrate::vmm {
namespace {

// What the kernel calls a signal set: 64 bits, the first signal in the lowest.
constexpr std::uint32_t kKernelSetBytes = 8;

}  // namespace

// The first three are what thread libraries and sanitizers may take.
int kick_signal() { return SIGRTMIN + 3; }

sigset_t all_but_faults() {
  sigset_t set;
  sigfillset(&set);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) {
    sigdelset(&set, fault);
  }
  return set;
}

SignalsBlocked::SignalsBlocked() {
  const sigset_t set = all_but_faults();
  pthread_sigmask(SIG_BLOCK, &set, &before_);
}

SignalsBlocked::~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

Status let_kicks_into_run(int vcpu_fd) {
  sigset_t set = all_but_faults();
  sigdelset(&set, kick_signal());
  alignas(kvm_signal_mask) std::array<std::byte, sizeof(kvm_signal_mask) + kKernelSetBytes> bytes{};
  const std::uint32_t length = kKernelSetBytes;
  std::memcpy(bytes.data(), &length, sizeof length);
  std::memcpy(bytes.data() + sizeof(kvm_signal_mask), &set, kKernelSetBytes);
  if (::ioctl(vcpu_fd, KVM_SET_SIGNAL_MASK, bytes.data()) != 0) {
    return make_errno_error(ErrorCode::kUnsupported, errno, "KVM does not take a signal mask");
  }
  return {};
}

void take_kicks() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, kick_signal());
  const timespec now{};
  while (sigtimedwait(&set, nullptr, &now) > 0) {
  }
}

SliceTimer::~SliceTimer() {
  if (timer_) timer_delete(*timer_);
}

void SliceTimer::arm(std::chrono::nanoseconds after) {
  if (!timer_) {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = kick_signal();
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    timer_t timer{};
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) return;
    timer_ = timer;
  }
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(after);
  itimerspec spec{};
  spec.it_value.tv_sec = seconds.count();
  spec.it_value.tv_nsec = (after - seconds).count();
  timer_settime(*timer_, 0, &spec, nullptr);
}

}  // namespace migrate::vmm
