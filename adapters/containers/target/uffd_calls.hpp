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

inline FillResult copy_pages_once(int uffd, std::uint64_t to, const std::byte* from,
                                  std::uint64_t bytes) {
  uffdio_copy copy{};
  copy.dst = to;
  copy.src = reinterpret_cast<std::uint64_t>(from);
  copy.len = bytes;
  if (::ioctl(uffd, UFFDIO_COPY, &copy) == 0) return {bytes, 0};
  if (copy.copy > 0) return {static_cast<std::uint64_t>(copy.copy), 0};
  return {0, copy.copy < 0 ? static_cast<int>(-copy.copy) : errno};
}

inline FillResult zero_pages_once(int uffd, std::uint64_t at, std::uint64_t bytes) {
  uffdio_zeropage zero{};
  zero.range = {at, bytes};
  if (::ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0) return {bytes, 0};
  if (zero.zeropage > 0) return {static_cast<std::uint64_t>(zero.zeropage), 0};
  return {0, zero.zeropage < 0 ? static_cast<int>(-zero.zeropage) : errno};
}

// The first ENOENT proves nothing. Linux says it of pages that lie in two mappings; and since 6.9
// it looks for the mapping before it looks whether the map is being changed, so that a page that
// moves away at this moment is said to be none. A second try of one page is told EAGAIN then, until
// the change has been read. So ENOENT from here means: nothing is mapped there, and no news will
// come.
constexpr std::uint64_t kSurePageBytes = 4096;

/// Both wake who waits for what they fill, and may fill less than asked for.
inline FillResult copy_pages(int uffd, std::uint64_t to, const std::byte* from,
                             std::uint64_t bytes) {
  const FillResult first = copy_pages_once(uffd, to, from, bytes);
  return first.error == ENOENT ? copy_pages_once(uffd, to, from, kSurePageBytes) : first;
}

inline FillResult zero_pages(int uffd, std::uint64_t at, std::uint64_t bytes) {
  const FillResult first = zero_pages_once(uffd, at, bytes);
  return first.error == ENOENT ? zero_pages_once(uffd, at, kSurePageBytes) : first;
}

/// Who waits there tries again.
inline void wake_pages(int uffd, std::uint64_t at, std::uint64_t bytes) {
  uffdio_range range{at, bytes};
  // Fails where the process is gone, and then nobody waits.
  (void)::ioctl(uffd, UFFDIO_WAKE, &range);
}

}  // namespace migrate::containers
