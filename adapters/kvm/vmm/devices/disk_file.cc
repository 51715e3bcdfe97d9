#include "adapters/kvm/vmm/devices/disk_file.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "adapters/kvm/vmm/devices/disk_lock.hpp"

namespace migrate::vmm {
namespace {

// Zeroes are written in pieces of this size where the file system has no other way.
constexpr std::size_t kZeroBytes = 64 << 10;
// Of one call: the kernel's UIO_MAXIOV.
constexpr std::size_t kPartsMax = 1024;

Error cannot_open(const std::string& path) {
  const int error = errno;
  const auto failed = [&](ErrorCode code, const char* remedy) {
    return make_errno_error(code, error, "cannot open the disk image " + path).advise(remedy);
  };
  switch (error) {
    case ENOENT:
      return failed(ErrorCode::kNotFound, "check the path; truncate -s SIZE makes an empty image");
    case EACCES:
    case EPERM:
    case EROFS:
      return failed(ErrorCode::kPermission, "make it readable and writable, or a read-only disk");
    case EISDIR:
      return failed(ErrorCode::kInvalidArgument, "give a file or a block device");
    default:
      return failed(ErrorCode::kIo, "");
  }
}

Error no_disk(const std::string& path, const std::string& why) {
  return make_error(ErrorCode::kInvalidArgument, path + " cannot be a disk: " + why)
      .advise(
          "give a raw image whose size is a multiple of 512 (truncate -s %512 rounds it up), or "
          "a block device");
}

Result<std::uint64_t> size_of(int fd, const std::string& path) {
  struct stat file {};
  if (::fstat(fd, &file) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot look at the disk image " + path);
  }
  if (S_ISREG(file.st_mode)) return static_cast<std::uint64_t>(file.st_size);
  if (!S_ISBLK(file.st_mode)) {
    return no_disk(path, "it is neither a file nor a block device");
  }
  std::uint64_t bytes = 0;
  if (::ioctl(fd, BLKGETSIZE64, &bytes) != 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot ask for the size of " + path);
  }
  return bytes;
}

/// What is left after `done` bytes.
std::span<iovec> past(std::span<iovec> memory, std::size_t done) {
  while (!memory.empty() && done >= memory.front().iov_len) {
    done -= memory.front().iov_len;
    memory = memory.subspan(1);
  }
  if (!memory.empty()) {
    memory.front().iov_base = static_cast<std::byte*>(memory.front().iov_base) + done;
    memory.front().iov_len -= done;
  }
  return memory;
}

/// `call` is preadv or pwritev, which may do a part only.
template <typename Call>
int transfer(Call call, int fd, std::span<iovec> memory, std::uint64_t offset) {
  memory = past(memory, 0);
  while (!memory.empty()) {
    const int count = static_cast<int>(std::min<std::size_t>(memory.size(), kPartsMax));
    const ssize_t done = call(fd, memory.data(), count, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno;
    if (done == 0) return EIO;
    offset += static_cast<std::uint64_t>(done);
    memory = past(memory, static_cast<std::size_t>(done));
  }
  return 0;
}

bool is_lacking(int error) { return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL; }

int allocate(int fd, int mode, std::uint64_t offset, std::uint64_t bytes) {
  if (bytes == 0) return 0;
  int result = 0;
  do {
    result = ::fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                         static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

int data_sync(int fd) {
  int result = 0;
  do {
    result = ::fdatasync(fd);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

}  // namespace

Result<DiskFile> DiskFile::open(const Options& options) {
  Fd fd(::open(options.path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!fd) return cannot_open(options.path);
  MIGRATE_ASSIGN(const std::uint64_t bytes, size_of(fd.get(), options.path));
  if (bytes == 0 || bytes % kSectorBytes != 0) {
    return no_disk(options.path,
                   "its " + std::to_string(bytes) + " bytes are no number of sectors");
  }
  std::unique_ptr<WriteBack> write_back;
  if (!options.read_only) {
    auto sync = options.sync ? options.sync : [raw = fd.get()] { return data_sync(raw); };
    MIGRATE_ASSIGN(write_back, WriteBack::create(options.path, std::move(sync)));
  }
  return DiskFile(std::move(fd), options, bytes / kSectorBytes, std::move(write_back));
}

Status DiskFile::lock() {
  MIGRATE_TRY(lock_disk(fd_.get(), path(), !read_only()));
  // Nobody else has written it, and storage that made unlock() fail may hang.
  if (locked_) return {};
  (void)::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
  MIGRATE_ASSIGN(const std::uint64_t bytes, size_of(fd_.get(), path()));
  if (bytes / kSectorBytes == sectors_) {
    locked_ = true;
    return {};
  }
  MIGRATE_TRY(unlock_disk(fd_.get(), path()));
  return make_error(ErrorCode::kIncompatible,
                    "the size of the disk image " + path() + " has changed since it was opened")
      .advise("do not resize an image that a guest uses");
}

void DiskFile::begin_write_back() const {
  if (write_back_ != nullptr) write_back_->begin();
}

void DiskFile::keep_written_back() const {
  if (write_back_ != nullptr) write_back_->keep_up();
}

Status DiskFile::write_back(SteadyTime deadline) const {
  return write_back_ == nullptr ? Status() : write_back_->flush_until(deadline);
}

Status DiskFile::unlock(SteadyTime deadline) {
  MIGRATE_TRY(write_back(deadline));
  MIGRATE_TRY(unlock_disk(fd_.get(), path()));
  locked_ = false;
  return {};
}

int DiskFile::read(std::span<iovec> memory, std::uint64_t offset) const {
  return transfer(::preadv, fd_.get(), memory, offset);
}

int DiskFile::write(std::span<iovec> memory, std::uint64_t offset) const {
  std::uint64_t bytes = 0;
  for (const iovec& part : memory) bytes += part.iov_len;
  const int error = transfer(::pwritev, fd_.get(), memory, offset);
  if (write_back_ != nullptr) write_back_->wrote(bytes);
  return error;
}

int DiskFile::flush() const { return write_back_ == nullptr ? 0 : write_back_->flush(); }

int DiskFile::discard(std::uint64_t offset, std::uint64_t bytes) const {
  const int error = allocate(fd_.get(), FALLOC_FL_PUNCH_HOLE, offset, bytes);
  return is_lacking(error) ? 0 : error;
}

int DiskFile::write_zeroes(std::uint64_t offset, std::uint64_t bytes, bool unmap) const {
  const int error =
      allocate(fd_.get(), unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE, offset, bytes);
  if (!is_lacking(error)) return error;
  static std::array<std::byte, kZeroBytes> zeroes{};  // Only read.
  while (bytes > 0) {
    const std::size_t count = std::min<std::uint64_t>(bytes, kZeroBytes);
    iovec piece{zeroes.data(), count};
    if (const int failed = write(std::span(&piece, 1), offset); failed != 0) return failed;
    offset += count;
    bytes -= count;
  }
  return 0;
}

}  // namespace migrate::vmm
