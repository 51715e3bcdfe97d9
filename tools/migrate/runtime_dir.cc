#include "runtime_dir.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <thread>

namespace migrate::tool {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDefaultPath = "/run/migrate";
constexpr const char* kVariable = "MIGRATE_RUNTIME_DIR";
constexpr std::size_t kNameMax = 64;
// Longest thing made in the folder: the session's 32 digits and ".lanes", or a name of kNameMax and
// ".sock~". Socket addresses hold that many bytes with the folder's path and the slash.
constexpr std::size_t kEntryMax = kNameMax + 6;
constexpr std::size_t kSocketPathMax = sizeof(sockaddr_un::sun_path) - 1;

constexpr int kLookersMax = 10;
constexpr std::chrono::milliseconds kLookerPause{5};

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

bool same_file(int fd, const fs::path& path) {
  struct stat opened {};
  struct stat named {};
  return fstat(fd, &opened) == 0 && stat(path.c_str(), &named) == 0 &&
         opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

/// The lock of `path`, made when missing. Invalid with EWOULDBLOCK when another process has it.
Fd lock_file(const fs::path& path) {
  for (;;) {
    Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return {};
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return {};
    // The former holder removes the file before it lets go; what was locked must be what is named.
    if (same_file(fd.get(), path)) return fd;
  }
}

Status check_folder(const fs::path& path) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot use the runtime folder " + path.string())
        .advise(std::string("set ") + kVariable + " to a folder on a tmpfs that you may write");
  }
  if (!S_ISDIR(found.st_mode)) {
    return make_error(ErrorCode::kIo, path.string() + " is not a folder")
        .advise(std::string("set ") + kVariable + " to another one");
  }
  if (found.st_uid != geteuid() || (found.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return make_error(ErrorCode::kPermission,
                      "the runtime folder " + path.string() + " can be written by other users")
        .advise(std::string("chmod 0700 it, or set ") + kVariable + " to a folder of your own");
  }
  return {};
}

}  // namespace

Status check_guest_name(std::string_view name) {
  const bool good = !name.empty() && name.size() <= kNameMax && name.front() != '.' &&
                    name.front() != '-' && std::all_of(name.begin(), name.end(), is_name_character);
  if (good) return {};
  return make_error(ErrorCode::kInvalidArgument, "'" + std::string(name) + "' is no guest name")
      .advise("use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter or digit");
}

NameLock::NameLock(std::string name, fs::path path, Fd lock)
    : name_(std::move(name)), path_(std::move(path)), lock_(std::move(lock)) {}

NameLock& NameLock::operator=(NameLock&& other) noexcept {
  if (this == &other) return *this;
  release();
  name_ = std::move(other.name_);
  path_ = std::move(other.path_);
  lock_ = std::move(other.lock_);
  return *this;
}

void NameLock::release() noexcept {
  if (!lock_) return;
  ::unlink(path_.c_str());
  lock_.reset();
}

Result<RuntimeDir> RuntimeDir::open() {
  const char* chosen = std::getenv(kVariable);
  return open(chosen != nullptr && *chosen != '\0' ? chosen : kDefaultPath);
}

Result<RuntimeDir> RuntimeDir::open(const fs::path& path) {
  std::error_code failure;
  const fs::path absolute = fs::absolute(path, failure);
  if (absolute.string().size() + 1 + kEntryMax > kSocketPathMax) {
    return make_error(ErrorCode::kInvalidArgument,
                      "the runtime folder's path is too long for socket names: " + path.string())
        .advise(std::string("set ") + kVariable + " to a path of at most " +
                std::to_string(kSocketPathMax - kEntryMax - 1) + " bytes");
  }
  if (mkdir(absolute.c_str(), 0700) != 0 && errno != EEXIST) {
    return make_errno_error(ErrorCode::kIo, errno,
                            "cannot make the runtime folder " + absolute.string())
        .advise(std::string("set ") + kVariable + " to a folder on a tmpfs that you may write");
  }
  MIGRATE_TRY(check_folder(absolute));
  return RuntimeDir(absolute);
}

fs::path RuntimeDir::socket_path(std::string_view name) const {
  return path_ / (std::string(name) + ".sock");
}

fs::path RuntimeDir::log_path(std::string_view name) const {
  return path_ / (std::string(name) + ".log");
}

fs::path RuntimeDir::lock_path(std::string_view name) const {
  return path_ / (std::string(name) + ".lock");
}

Result<NameLock> RuntimeDir::take_name(const std::string& name) const {
  MIGRATE_TRY(check_guest_name(name));
  const fs::path path = lock_path(name);
  Fd lock = lock_file(path);
  // `ps` holds a lock for some microseconds to see whether its process lives.
  for (int i = 0; i < kLookersMax && !lock && errno == EWOULDBLOCK; ++i) {
    std::this_thread::sleep_for(kLookerPause);
    lock = lock_file(path);
  }
  if (lock) return NameLock(name, path, std::move(lock));
  if (errno == EWOULDBLOCK) {
    return make_error(ErrorCode::kNameTaken,
                      "a guest called '" + name + "' is on this host already")
        .advise("choose another name, or see `migrate ps`");
  }
  return make_errno_error(ErrorCode::kIo, errno, "cannot lock " + path.string())
      .advise("check the runtime folder's permissions and free space");
}

bool RuntimeDir::is_name_taken(const std::string& name) const {
  const Fd fd(::open(lock_path(name).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  return fd && flock(fd.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

std::vector<std::string> RuntimeDir::guests() const {
  std::vector<std::string> names;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(path_, failure)) {
    if (entry.path().extension() != ".sock") continue;
    std::string name = entry.path().stem().string();
    if (check_guest_name(name)) names.push_back(std::move(name));
  }
  std::erase_if(names, [this](const std::string& name) {
    if (is_name_taken(name)) return false;
    // Only whoever holds the lock may remove: a new guest of that name may be on its way.
    if (const auto lock = take_name(name)) ::unlink(socket_path(name).c_str());
    return true;
  });
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace migrate::tool
