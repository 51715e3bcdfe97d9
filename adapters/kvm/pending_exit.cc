#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <atomic>
#include <cerrno>

#include "migrate/kvm.hpp"

namespace migrate {

Result<bool> complete_pending_exit(int vcpu_fd, kvm_run* run) {
  // A mark of our own: a kick that arrives meanwhile stores 1 and must survive.
  constexpr std::uint8_t kOurs = 2;
  std::atomic_ref<std::uint8_t> immediate_exit(run->immediate_exit);
  std::uint8_t expected = 0;
  const bool marked = immediate_exit.compare_exchange_strong(expected, kOurs);
  // KVM finishes the instruction that exited, then sees the flag and returns without entering.
  const int error = ::ioctl(vcpu_fd, KVM_RUN, 0) < 0 ? errno : 0;
  if (marked) {
    expected = kOurs;
    immediate_exit.compare_exchange_strong(expected, 0);
  }
  if (error == 0) return false;
  if (error == EINTR || error == EAGAIN) return true;
  return make_errno_error(ErrorCode::kGuest, error, "KVM cannot complete a vCPU's last access");
}

}  // namespace migrate
