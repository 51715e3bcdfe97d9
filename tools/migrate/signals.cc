#include "signals.hpp"

#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

namespace migrate::tool {

Result<SignalFd> SignalFd::open(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  if (const int failure = pthread_sigmask(SIG_BLOCK, &set, nullptr); failure != 0) {
    return make_errno_error(ErrorCode::kInternal, failure, "cannot block signals");
  }
  Fd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return make_errno_error(ErrorCode::kIo, errno, "cannot create a signalfd");
  return SignalFd(std::move(fd));
}

int SignalFd::take() const {
  signalfd_siginfo info{};
  if (::read(fd_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return 0;
  return static_cast<int>(info.ssi_signo);
}

}  // namespace migrate::tool
