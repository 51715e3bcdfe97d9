#include "checkpoint/partial_file.hpp"
#include "base/random_bytes.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

namespace migrate::checkpoint {
namespace {

constexpr std::string_view kSuffix = ".partial";
constexpr std::size_t kRandomDigits = 16;
// A file's name has at most 255 bytes.
constexpr std::size_t kNameMax = 255;
constexpr std::size_t kStemMax = kNameMax - 2 - kRandomDigits - kSuffix.size();
// Nobody else makes these names; a few tries are for those who take ours for a leftover.
constexpr int kTries = 16;

std::string prefix_of(const std::string& name) { return "." + name.substr(0, kStemMax) + "."; }

bool is_partial_of(const std::string& prefix, std::string_view name) {
  if (name.size() != prefix.size() + kRandomDigits + kSuffix.size()) return false;
  if (!name.starts_with(prefix) || !name.ends_with(kSuffix)) return false;
  return name.substr(prefix.size(), kRandomDigits).find_first_not_of("0123456789abcdef") ==
         std::string_view::npos;
}

Result<std::string> random_digits() {
  std::uint64_t number = 0;
  MIGRATE_TRY(fill_random(std::as_writable_bytes(std::span(&number, 1))));
  char text[kRandomDigits + 1];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(number));
  return std::string(text);
}

/// The file system has no such locks: then nobody can tell a leftover, and none is removed.
bool has_no_locks(int sys_errno) {
  return sys_errno == ENOLCK || sys_errno == EOPNOTSUPP || sys_errno == ENOSYS;
}

}  // namespace

Error write_error(const std::string& path, const std::string& folder, int sys_errno,
                  std::uint64_t bytes_left) {
  Error error = make_errno_error(ErrorCode::kIo, sys_errno, "cannot write " + path);
  switch (sys_errno) {
    case ENOSPC: {
      struct statvfs about = {};
      std::string there;
      if (::statvfs(folder.c_str(), &about) == 0) {
        there = ", where " + std::to_string(std::uint64_t{about.f_bavail} * about.f_frsize) +
                " are left";
      }
      return std::move(error).advise("free more than " + std::to_string(bytes_left) + " bytes in " +
                                     folder + there + ", or write to another file system");
    }
    case EDQUOT:
      return std::move(error).advise("free more than " + std::to_string(bytes_left) +
                                     " bytes of this user's quota in " + folder +
                                     ", or have it raised");
    case EFBIG:
      return std::move(error).advise(
          "raise the limit of a file's size (ulimit -f), or write to a file system that has larger "
          "files than that of " +
          folder);
    case EIO:
      return std::move(error).advise("check the disk under " + folder +
                                     " (dmesg), or write to another");
    case EROFS:
    case EACCES:
    case EPERM:
      return std::move(error).advise("give a folder that this user may write to");
    case EMFILE:
    case ENFILE:
      return std::move(error).advise("raise the limit of open files (ulimit -n)");
    default:
      return std::move(error).advise("check " + folder + ", or write to another folder");
  }
}

PartialFile::PartialFile(std::string path, FileCalls& calls)
    : calls_(&calls), path_(std::move(path)) {
  const auto slash = path_.rfind('/');
  folder_path_ = slash == std::string::npos ? "." : path_.substr(0, slash);
  if (folder_path_.empty()) folder_path_ = "/";
  name_ = slash == std::string::npos ? path_ : path_.substr(slash + 1);
}

PartialFile::PartialFile(PartialFile&& other) noexcept
    : calls_(other.calls_),
      path_(std::move(other.path_)),
      folder_path_(std::move(other.folder_path_)),
      name_(std::move(other.name_)),
      partial_(std::exchange(other.partial_, {})),
      folder_(std::move(other.folder_)),
      file_(std::move(other.file_)) {}

PartialFile::~PartialFile() {
  // Before the lock goes, or another process may be at it too.
  if (!partial_.empty()) calls_->unlinkat(folder_.get(), partial_.c_str());
}

Error PartialFile::failed(const std::string& what, int sys_errno) const {
  Error error = write_error(path_, folder_path_, sys_errno, 0);
  error.message += ": " + what;
  return error;
}

Status PartialFile::open_folder() {
  folder_.reset(
      calls_->openat(AT_FDCWD, folder_path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
  if (folder_) return {};
  if (errno == ENOENT || errno == ENOTDIR) {
    return make_errno_error(ErrorCode::kNotFound, errno,
                            "cannot write " + path_ + ": there is no folder " + folder_path_)
        .advise("make it (mkdir -p), or give another path");
  }
  return failed("cannot open its folder", errno);
}

Status PartialFile::check_place() {
  if (name_.empty() || name_ == "." || name_ == "..") {
    return make_error(ErrorCode::kInvalidArgument, "'" + path_ + "' is no file's name")
        .advise("give the path of a file");
  }
  if (name_.size() > kNameMax) return failed("its name is too long", ENAMETOOLONG);
  struct stat about = {};
  if (::fstatat(folder_.get(), name_.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return {};
    return failed("cannot look at what is there", errno);
  }
  if (S_ISREG(about.st_mode)) return {};
  return make_error(ErrorCode::kInvalidArgument, path_ + " is there and is no regular file")
      .advise(S_ISLNK(about.st_mode) ? "give the path that the link points to"
                                     : "give another path");
}

void PartialFile::remove_leftovers() {
  // A descriptor of its own: reading the folder moves its offset.
  const int fd = ::openat(folder_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  struct Close {
    void operator()(DIR* folder) const { ::closedir(folder); }
  };
  const std::unique_ptr<DIR, Close> entries(::fdopendir(fd));
  if (!entries) {
    ::close(fd);
    return;
  }
  const std::string prefix = prefix_of(name_);
  while (const dirent* entry = ::readdir(entries.get())) {
    if (!is_partial_of(prefix, entry->d_name)) continue;
    // Not by way of `calls_`: what comes of it changes nothing for the file to be written.
    const Fd left(
        ::openat(folder_.get(), entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (left && ::flock(left.get(), LOCK_EX | LOCK_NB) == 0) {
      ::unlinkat(folder_.get(), entry->d_name, 0);
    }
  }
}

Result<bool> PartialFile::make_file() {
  MIGRATE_ASSIGN(const std::string digits, random_digits());
  const std::string name = prefix_of(name_) + digits + std::string(kSuffix);
  // What was in a guest's memory is nobody else's business.
  file_.reset(calls_->openat(folder_.get(), name.c_str(),
                             O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file_) {
    if (errno == EEXIST) return false;
    return failed("cannot make a file in its folder", errno);
  }
  partial_ = name;
  if (calls_->flock(file_.get(), LOCK_EX | LOCK_NB) != 0 && !has_no_locks(errno)) {
    if (errno == EWOULDBLOCK) return false;
    return failed("cannot lock a file in its folder", errno);
  }
  // Between its making and its lock another process may have taken it for a leftover.
  struct stat about = {};
  if (::fstat(file_.get(), &about) != 0) return failed("cannot look at it", errno);
  return about.st_nlink > 0;
}

Result<PartialFile> PartialFile::create(const std::string& path, FileCalls& calls) {
  PartialFile made(path, calls);
  MIGRATE_TRY(made.open_folder());
  MIGRATE_TRY(made.check_place());
  made.remove_leftovers();
  for (int i = 0; i < kTries; ++i) {
    MIGRATE_ASSIGN(const bool ours, made.make_file());
    if (ours) return made;
    made.partial_.clear();
  }
  return make_error(ErrorCode::kBusy, "cannot write " + path + ": others remove what is made there")
      .advise("wait until other checkpoints to it have ended");
}

int PartialFile::sync(int fd) const {
  int done = 0;
  do {
    done = calls_->fsync(fd);
  } while (done != 0 && errno == EINTR);
  return done;
}

Status PartialFile::publish() {
  // Not fdatasync(): of a new file it writes the same (all but times), and nobody has to know what
  // else it leaves out.
  if (sync(file_.get()) != 0) return failed("it does not last", errno);
  return take_name();
}

Status PartialFile::take_name() {
  // Old and new change names, so that they can change back should that not last.
  bool replaced = true;
  int done = calls_->renameat2(folder_.get(), partial_.c_str(), name_.c_str(), RENAME_EXCHANGE);
  if (done != 0 && errno == ENOENT) {
    replaced = false;
    done = calls_->renameat2(folder_.get(), partial_.c_str(), name_.c_str(), RENAME_NOREPLACE);
  }
  if (done != 0 && (errno == EINVAL || errno == EEXIST || errno == ENOSYS)) {
    // A file system that can do neither (NFS), or somebody is faster.
    if (calls_->renameat2(folder_.get(), partial_.c_str(), name_.c_str(), 0) != 0) {
      return failed("it cannot be given its name", errno);
    }
    partial_.clear();
    if (sync(folder_.get()) == 0) return {};
    return failed("it is complete, but may not have its name after a loss of power", errno);
  }
  if (done != 0) return failed("it cannot be given its name", errno);
  if (sync(folder_.get()) != 0) return put_back(replaced, errno);
  // What was there before.
  if (replaced) calls_->unlinkat(folder_.get(), partial_.c_str());
  partial_.clear();
  return {};
}

Status PartialFile::put_back(bool replaced, int sys_errno) {
  const unsigned flags = replaced ? RENAME_EXCHANGE : RENAME_NOREPLACE;
  if (calls_->renameat2(folder_.get(), name_.c_str(), partial_.c_str(), flags) != 0) {
    // What is under the temporary name may be all there is of the former file: it stays.
    partial_.clear();
    return failed("it is complete, but may not have its name after a loss of power", sys_errno);
  }
  return failed("its name does not last", sys_errno);
}

}  // namespace migrate::checkpoint
