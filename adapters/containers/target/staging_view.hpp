// StagingView: the staging as the filler sees it. Uses no heap.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace migrate::containers {

class StagingView {
 public:
  /// Takes the descriptor over. 0 or an errno.
  int open(int memfd) {
    memfd_ = memfd;
    struct stat status {};
    if (::fstat(memfd_, &status) != 0) return errno;
    bytes_ = static_cast<std::uint64_t>(status.st_size);
    if (bytes_ == 0) return 0;
    void* mapped = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED | MAP_NORESERVE, memfd_, 0);
    if (mapped == MAP_FAILED) return errno;
    base_ = static_cast<const std::byte*>(mapped);
    return 0;
  }

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] const std::byte* at(std::uint64_t offset) const { return base_ + offset; }

  /// How much from `offset` on is there in one go, at most `bytes_max`; 0 where a page is missing,
  /// which reads as zero once everything has come. Page by page: SEEK_HOLE looks at every page up
  /// to the next hole, which is a millisecond where a gigabyte is there.
  [[nodiscard]] std::uint64_t there(std::uint64_t offset, std::uint64_t bytes_max) const {
    std::uint64_t found = 0;
    while (found < bytes_max && is_there(offset + found)) found += kPageBytes;
    return std::min(found, bytes_max);
  }
  /// How much from `offset` on is missing in one go, at most `bytes_max`.
  [[nodiscard]] std::uint64_t missing(std::uint64_t offset, std::uint64_t bytes_max) const {
    const off_t data = ::lseek(memfd_, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0) return bytes_max;
    return std::min(bytes_max, static_cast<std::uint64_t>(data) - offset);
  }
  /// Maps pages that are there, so that the kernel need not when it copies with locks held.
  void populate(std::uint64_t offset, std::uint64_t bytes) const {
    (void)::madvise(const_cast<std::byte*>(base_) + offset, bytes, kPopulateRead);
  }
  void give_back(std::uint64_t offset, std::uint64_t bytes) const {
    (void)::fallocate(memfd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      static_cast<off_t>(offset), static_cast<off_t>(bytes));
  }

 private:
  static constexpr std::uint64_t kPageBytes = 4096;

  [[nodiscard]] bool is_there(std::uint64_t offset) const {
    return ::lseek(memfd_, static_cast<off_t>(offset), SEEK_DATA) == static_cast<off_t>(offset);
  }

  static constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ, Linux 5.14.

  int memfd_ = -1;
  const std::byte* base_ = nullptr;
  std::uint64_t bytes_ = 0;
};

}  // namespace migrate::containers
