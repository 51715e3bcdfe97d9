// Signals as something to poll() for: the command's own choice, never the library's.
#pragma once

#include <csignal>
#include <initializer_list>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// Blocks the given signals in the calling thread, and in those it starts later, and makes them
/// readable instead. Made in main's thread before any other starts.
class SignalFd {
 public:
  static Result<SignalFd> open(std::initializer_list<int> signals);
  /// For poll() with POLLIN.
  [[nodiscard]] int fd() const { return fd_.get(); }
  /// The next pending signal, 0 when there is none.
  [[nodiscard]] int take() const;

 private:
  explicit SignalFd(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace migrate::tool
