// EventFd: a flag that poll() can wait for; how one thread wakes another that waits in the kernel.
#pragma once

#include <sys/eventfd.h>

#include <cerrno>
#include <cstdint>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// Any thread may call any method.
class EventFd {
 public:
  static Result<EventFd> create() {
    Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) {
      return make_errno_error(ErrorCode::kIo, errno, "cannot create an eventfd")
          .advise("raise the limit of open files (ulimit -n)");
    }
    return EventFd(std::move(fd));
  }

  /// Raises the flag: the descriptor is readable until clear().
  void set() noexcept {
    const std::uint64_t one = 1;
    // Fails only when the counter is full, and then the flag is up already.
    [[maybe_unused]] const auto written = ::write(fd_.get(), &one, sizeof one);
  }
  void clear() noexcept {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto taken = ::read(fd_.get(), &count, sizeof count);
  }
  /// For poll() with POLLIN. Stays this object's.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

 private:
  explicit EventFd(Fd fd) noexcept : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace migrate
