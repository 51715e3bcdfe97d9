// DiskFile: the raw image under a disk, and the lock that goes with it.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "adapters/kvm/vmm/devices/write_back.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

inline constexpr std::uint32_t kSectorBytes = 512;

/// Opening takes no lock: at a migration's target the image is opened while the source still writes
/// it. lock() comes before the guest's first access. Reads and writes may come from several
/// threads. Results of I/O are an errno, 0 for none: there is a guest to tell, and no operator.
class DiskFile {
 public:
  struct Options {
    std::string path;  ///< A regular file or a block device.
    bool read_only = false;
    /// In place of fdatasync() of the image: tests have no storage that fails or hangs.
    WriteBack::Sync sync = {};
  };
  /// kNotFound, kPermission, kInvalidArgument for what cannot be a disk (a folder, no sectors, a
  /// part of a sector).
  static Result<DiskFile> open(const Options& options);
  DiskFile(DiskFile&&) noexcept = default;
  DiskFile& operator=(DiskFile&&) = delete;
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;

  [[nodiscard]] std::uint64_t sectors() const { return sectors_; }
  [[nodiscard]] bool read_only() const { return options_.read_only; }
  [[nodiscard]] const std::string& path() const { return options_.path; }

  /// Exclusive, or shared among readers for a read-only disk. See disk_lock.hpp. What this host has
  /// cached of the image is dropped where it can be, because another host may have written it.
  Status lock();
  /// Writes what has been cached to the image, so that another host finds it, and unlocks. The lock
  /// is kept when that fails: write_back()'s errors.
  Status unlock(SteadyTime deadline);

  /// Begins to write back in the background; keep_written_back() also keeps at it from now on, so
  /// that write_back() takes little time.
  void begin_write_back() const;
  void keep_written_back() const;
  /// kTimeout, and it goes on; kIo when a write has been lost, now or at any time before.
  Status write_back(SteadyTime deadline) const;

  /// All of `memory`; an end of the file is EIO.
  [[nodiscard]] int read(std::span<iovec> memory, std::uint64_t offset) const;
  [[nodiscard]] int write(std::span<iovec> memory, std::uint64_t offset) const;
  /// When it returns 0, all writes that had completed are on stable storage. Once it has failed, it
  /// fails for good: what was lost does not come back.
  [[nodiscard]] int flush() const;
  /// The contents are of no interest any more. A hint: what storage cannot do is left undone.
  [[nodiscard]] int discard(std::uint64_t offset, std::uint64_t bytes) const;
  /// `unmap`: the storage may be given back.
  [[nodiscard]] int write_zeroes(std::uint64_t offset, std::uint64_t bytes, bool unmap) const;

 private:
  DiskFile(Fd fd, Options options, std::uint64_t sectors, std::unique_ptr<WriteBack> write_back)
      : fd_(std::move(fd)),
        options_(std::move(options)),
        sectors_(sectors),
        write_back_(std::move(write_back)) {}

  Fd fd_;
  Options options_;
  std::uint64_t sectors_;
  bool locked_ = false;
  std::unique_ptr<WriteBack> write_back_;  ///< Null when read-only. After fd_, which it uses.
};

}  // namespace migrate::vmm
