// QuietSignal: a signal that the kernel sends a thread for what it writes, such as SIGPIPE, is an
// error of the write and nothing else.
#pragma once

#include <cerrno>
#include <csignal>
#include <ctime>

namespace migrate::checkpoint {

/// Keeps `number` from the thread that makes it, while it is there; the process's own way with the
/// signal stays untouched.
class QuietSignal {
 public:
  explicit QuietSignal(int number) {
    ::sigemptyset(&signal_);
    ::sigaddset(&signal_, number);
    sigset_t pending;
    ::sigemptyset(&pending);
    ::sigpending(&pending);
    // One that waits already is somebody else's.
    was_pending_ = ::sigismember(&pending, number) == 1;
    ::pthread_sigmask(SIG_BLOCK, &signal_, &before_);
  }
  ~QuietSignal() {
    const int error = errno;
    if (!was_pending_) {
      const timespec now{};
      while (::sigtimedwait(&signal_, nullptr, &now) < 0 && errno == EINTR) {
      }
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = error;
  }
  QuietSignal(const QuietSignal&) = delete;
  QuietSignal& operator=(const QuietSignal&) = delete;

 private:
  sigset_t signal_;
  sigset_t before_;
  bool was_pending_ = false;
};

}  // namespace migrate::checkpoint
