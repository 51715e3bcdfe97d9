// The calls on a userfaultfd of another process. Nothing here needs a heap.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>

namespace migrate::containers {

struct FillResult {
  std::uint64_t bytes = 0;  ///< Filled, from the first on.
  int error = 0;            ///< Why it went no further: EEXIST, EAGAIN, ENOENT, ESRCH, ...
};

/// Both wake who waits for what they fill.
inline FillResult copy_pages(int uffd, std::uint64_t to, const std::byte* from,
                             std::uint64_t bytes) {
  uffdio_copy copy{};
  copy.dst = to;
  copy.src = reinterpret_cast<std::uint64_t>(from);
  copy.len = bytes;
  if (::ioctl(uffd, UFFDIO_COPY, &copy) == 0) return {bytes, 0};
  if (copy.copy > 0) return {static_cast<std::uint64_t>(copy.copy), 0};
  return {0, copy.copy < 0 ? static_cast<int>(-copy.copy) : errno};
}

inline FillResult zero_pages(int uffd, std::uint64_t at, std::uint64_t bytes) {
  uffdio_zeropage zero{};
  zero.range = {at, bytes};
  if (::ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0) return {bytes, 0};
  if (zero.zeropage > 0) return {static_cast<std::uint64_t>(zero.zeropage), 0};
  return {0, zero.zeropage < 0 ? static_cast<int>(-zero.zeropage) : errno};
}

/// Who waits there tries again.
inline void wake_pages(int uffd, std::uint64_t at, std::uint64_t bytes) {
  uffdio_range range{at, bytes};
  // Fails where the process is gone, and then nobody waits.
  (void)::ioctl(uffd, UFFDIO_WAKE, &range);
}

}  // namespace migrate::containers
