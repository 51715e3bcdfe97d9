#include "adapters/kvm/vmm/devices/disk_lock.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

namespace migrate::vmm {
namespace {

namespace fs = std::filesystem;

struct flock whole_file(int type) {
  struct flock lock {};
  lock.l_type = static_cast<short>(type);
  lock.l_whence = SEEK_SET;
  return lock;
}

bool is_number(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// Whether a descriptor's entry under /proc says that it holds a lock.
bool holds_lock(const fs::path& information) {
  std::ifstream file(information);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("lock:")) return true;
  }
  return false;
}

bool process_holds_lock(const fs::path& process, const struct stat& file) {
  std::error_code ignored;
  for (fs::directory_iterator fds(process / "fd", ignored), end; fds != end;
       fds.increment(ignored)) {
    struct stat other {};
    if (::stat(fds->path().c_str(), &other) != 0) continue;
    if (other.st_dev != file.st_dev || other.st_ino != file.st_ino) continue;
    if (holds_lock(process / "fdinfo" / fds->path().filename())) return true;
  }
  return false;
}

/// Open file description locks belong to no process, so who has the file open is looked for. Only
/// processes this one may look into are seen.
std::optional<std::string> find_holder(int fd) {
  struct stat file {};
  if (::fstat(fd, &file) != 0) return std::nullopt;
  std::error_code ignored;
  for (fs::directory_iterator processes("/proc", ignored), end; processes != end;
       processes.increment(ignored)) {
    const std::string pid = processes->path().filename();
    if (!is_number(pid) || !process_holds_lock(processes->path(), file)) continue;
    std::string name;
    std::getline(std::ifstream(processes->path() / "comm"), name);
    return "process " + pid + (name.empty() ? "" : " (" + name + ")");
  }
  return std::nullopt;
}

Error busy(int fd, const std::string& path) {
  const auto holder = find_holder(fd);
  return make_error(ErrorCode::kBusy, "the disk image " + path + " is locked by " +
                                          holder.value_or("another process, or by another host"))
      .advise("stop the guest that uses it, or give this one a disk of its own");
}

}  // namespace

Status lock_disk(int fd, const std::string& path, bool exclusive) {
  struct flock lock = whole_file(exclusive ? F_WRLCK : F_RDLCK);
  int result = 0;
  do {
    result = ::fcntl(fd, F_OFD_SETLK, &lock);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  if (errno == EAGAIN || errno == EACCES) return busy(fd, path);
  return make_errno_error(ErrorCode::kIo, errno, "cannot lock the disk image " + path)
      .advise("use a file system with locks: without one two hosts could write the disk at once");
}

Status unlock_disk(int fd, const std::string& path) {
  struct flock lock = whole_file(F_UNLCK);
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
  return make_errno_error(ErrorCode::kIo, errno, "cannot unlock the disk image " + path);
}

}  // namespace migrate::vmm
