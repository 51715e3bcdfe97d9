// FaultyCalls: file calls one of which goes wrong.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string>

#include "checkpoint/file_calls.hpp"
#include "checkpoint/image_format.hpp"

namespace migrate::checkpoint {

/// One of the calls has a fault, all others are the kernel's.
class FaultyCalls final : public FileCalls {
 public:
  enum class Fault { kNone, kError, kShort, kKillBefore, kKillAfter };
  FaultyCalls() = default;
  FaultyCalls(Fault fault, int at, int sys_errno = 0)
      : fault_(fault), at_(at), sys_errno_(sys_errno) {}
  [[nodiscard]] int calls() const { return calls_; }
  /// The fault had a call that it could happen to.
  [[nodiscard]] bool happened() const { return happened_; }
  [[nodiscard]] const std::string& which() const { return which_; }

  int openat(int folder, const char* name, int flags, mode_t mode) override {
    return call("openat", [&] { return FileCalls::openat(folder, name, flags, mode); });
  }
  int flock(int fd, int operation) override {
    return call("flock", [&] { return FileCalls::flock(fd, operation); });
  }
  ssize_t pwrite(int fd, const void* from, std::size_t bytes, off_t offset) override {
    const std::size_t most = shortened(bytes);
    return call("pwrite", [&] { return FileCalls::pwrite(fd, from, most, offset); });
  }
  int fsync(int fd) override {
    return call("fsync", [&] { return FileCalls::fsync(fd); });
  }
  int renameat2(int folder, const char* from, const char* to, unsigned flags) override {
    return call("renameat2", [&] { return FileCalls::renameat2(folder, from, to, flags); });
  }
  int unlinkat(int folder, const char* name) override {
    return call("unlinkat", [&] { return FileCalls::unlinkat(folder, name); });
  }
  ssize_t submit(std::size_t bytes) override {
    const std::size_t most = shortened(bytes);
    return call("submit", [&] { return static_cast<ssize_t>(most); });
  }
  int completed(int result) override {
    const bool now = fault_ == Fault::kError && calls_ == at_;
    const int made = call("completed", [&] { return result; });
    return now ? -sys_errno_ : made;
  }

 private:
  std::size_t shortened(std::size_t bytes) {
    if (fault_ != Fault::kShort || calls_ != at_ || bytes <= kBlockAlign) return bytes;
    happened_ = true;
    return bytes / 2 / kBlockAlign * kBlockAlign;
  }
  template <typename Call>
  auto call(const char* name, const Call& real) -> decltype(real()) {
    const bool now = calls_++ == at_;
    if (now) which_ = name;
    if (now && fault_ == Fault::kKillBefore) ::kill(::getpid(), SIGKILL);
    if (now && fault_ == Fault::kError) {
      happened_ = true;
      errno = sys_errno_;
      return -1;
    }
    const auto result = real();
    if (now && fault_ == Fault::kKillAfter) ::kill(::getpid(), SIGKILL);
    return result;
  }

  const Fault fault_ = Fault::kNone;
  const int at_ = -1;
  const int sys_errno_ = 0;
  int calls_ = 0;
  bool happened_ = false;
  std::string which_;
};

}  // namespace migrate::checkpoint
