#include "session/file_lock.hpp"

#include <fcntl.h>

#include <cerrno>
#include <thread>

namespace migrate::session {

Result<bool> try_lock_byte(int fd, std::int64_t byte) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  while (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES) return false;
    if (errno != EINTR) return make_errno_error(ErrorCode::kIo, errno, "cannot lock a file");
  }
  return true;
}

Status lock_byte(int fd, std::int64_t byte, std::chrono::milliseconds patience) {
  const auto give_up = std::chrono::steady_clock::now() + patience;
  while (true) {
    MIGRATE_ASSIGN(const bool locked, try_lock_byte(fd, byte));
    if (locked) return {};
    if (std::chrono::steady_clock::now() >= give_up) {
      return make_error(ErrorCode::kBusy, "another process keeps a file locked");
    }
    // F_OFD_SETLKW would wait without a bound.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace migrate::session
