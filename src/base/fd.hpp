// Fd: a file descriptor with an owner.
#pragma once

#include <unistd.h>

#include <utility>

namespace migrate {

class Fd {
 public:
  Fd() = default;
  /// Takes `fd` over; a negative one is none.
  explicit Fd(int fd) noexcept : fd_(fd) {}
  ~Fd() { reset(); }
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }

  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] bool valid() const noexcept { return fd_ >= 0; }
  explicit operator bool() const noexcept { return valid(); }
  /// Gives the descriptor away, unclosed.
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  /// Closes, and takes `fd` over. Linux frees the number even where close() fails, so it is never
  /// tried again.
  void reset(int fd = -1) noexcept {
    if (const int old = std::exchange(fd_, fd); old >= 0) ::close(old);
  }

 private:
  int fd_ = -1;
};

}  // namespace migrate
