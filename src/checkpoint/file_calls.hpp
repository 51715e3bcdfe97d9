// FileCalls: what an image's file asks of the kernel, in one place, so that tests can let each of
// these calls fail.
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace migrate::checkpoint {

/// As the system calls of these names: -1 and errno on failure. Any thread.
class FileCalls {
 public:
  virtual ~FileCalls() = default;
  virtual int openat(int folder, const char* name, int flags, mode_t mode);
  virtual int flock(int fd, int operation);
  virtual ssize_t pwrite(int fd, const void* from, std::size_t bytes, off_t offset);
  virtual int ftruncate(int fd, off_t bytes);
  virtual int fallocate(int fd, int mode, off_t offset, off_t bytes);
  virtual int fsync(int fd);
  virtual int renameat2(int folder, const char* from, const char* to, unsigned flags);
  virtual int unlinkat(int folder, const char* name);

  /// Before `bytes` are given to io_uring: how many of them are; -1 and errno when none is.
  virtual ssize_t submit(std::size_t bytes);
  /// What io_uring made of them, a count or an errno below 0: what is to be believed.
  virtual int completed(int result);
};

/// The kernel itself.
[[nodiscard]] FileCalls& kernel_file_calls();

}  // namespace migrate::checkpoint
