#include "checkpoint/file_calls.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdio>

namespace migrate::checkpoint {

int FileCalls::openat(int folder, const char* name, int flags, mode_t mode) {
  return ::openat(folder, name, flags, mode);
}
int FileCalls::flock(int fd, int operation) { return ::flock(fd, operation); }
ssize_t FileCalls::pwrite(int fd, const void* from, std::size_t bytes, off_t offset) {
  return ::pwrite(fd, from, bytes, offset);
}
int FileCalls::ftruncate(int fd, off_t bytes) { return ::ftruncate(fd, bytes); }
int FileCalls::fallocate(int fd, int mode, off_t offset, off_t bytes) {
  return ::fallocate(fd, mode, offset, bytes);
}
int FileCalls::fsync(int fd) { return ::fsync(fd); }
int FileCalls::renameat2(int folder, const char* from, const char* to, unsigned flags) {
  return ::renameat2(folder, from, folder, to, flags);
}
int FileCalls::unlinkat(int folder, const char* name) { return ::unlinkat(folder, name, 0); }
ssize_t FileCalls::submit(std::size_t bytes) { return static_cast<ssize_t>(bytes); }
int FileCalls::completed(int result) { return result; }

FileCalls& kernel_file_calls() {
  static FileCalls calls;
  return calls;
}

}  // namespace migrate::checkpoint
