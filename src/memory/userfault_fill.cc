// Userfault's side of filling memory: faults read, pages made, waiters woken.
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "memory/uffd_abi.hpp"
#include "memory/userfault.hpp"

namespace migrate {
namespace {

/// The kernel asks to try again while the process's memory map is changed by somebody else, which
/// takes milliseconds; so many turns with nothing done are far more.
constexpr int kIdleTriesMax = 100'000;

/// `fill(address, length, done)` is one call of the kernel: `done` its count of bytes, or -errno.
template <typename Fill>
Userfault::Filled fill_all(AddressRange to, Fill&& fill) {
  Userfault::Filled filled;
  const std::uint64_t bytes = to.end - to.begin;
  for (int idle = 0; filled.bytes < bytes;) {
    std::int64_t done = 0;
    if (fill(to.begin + filled.bytes, bytes - filled.bytes, done)) done = bytes - filled.bytes;
    if (done > 0) {
      filled.bytes += static_cast<std::uint64_t>(done);
      idle = 0;
    } else if ((done == 0 || done == -EAGAIN) && ++idle < kIdleTriesMax) {
      sched_yield();
    } else {
      filled.sys_errno = done == 0 ? EAGAIN : static_cast<int>(-done);
      return filled;
    }
  }
  return filled;
}

}  // namespace

std::span<PageFault> Userfault::read_faults(std::span<PageFault> into) const {
  std::array<uffd_msg, 64> messages;
  const std::size_t most = std::min(into.size(), messages.size());
  const ssize_t got = ::read(fd_.get(), messages.data(), most * sizeof(uffd_msg));
  std::size_t count = 0;
  for (std::size_t i = 0; got > 0 && i < static_cast<std::size_t>(got) / sizeof(uffd_msg); ++i) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
    const auto& fault = messages[i].arg.pagefault;
    into[count++] = {fault.address, static_cast<int>(fault.feat.ptid)};
  }
  return into.first(count);
}

Userfault::Filled Userfault::copy(AddressRange to, const std::byte* from) const {
  return fill_all(to, [&](std::uint64_t at, std::uint64_t length, std::int64_t& done) {
    uffdio_copy copy{};
    copy.dst = at;
    copy.src = reinterpret_cast<std::uint64_t>(from + (at - to.begin));
    copy.len = length;
    if (::ioctl(fd_.get(), UFFDIO_COPY, &copy) == 0) return true;
    // Where the kernel refuses the call as such it has not written this.
    done = copy.copy != 0 ? copy.copy : -errno;
    return false;
  });
}

Userfault::Filled Userfault::fill_with_zeros(AddressRange to) const {
  return fill_all(to, [&](std::uint64_t at, std::uint64_t length, std::int64_t& done) {
    uffdio_zeropage zero{};
    zero.range = {at, length};
    if (::ioctl(fd_.get(), UFFDIO_ZEROPAGE, &zero) == 0) return true;
    done = zero.zeropage != 0 ? zero.zeropage : -errno;
    return false;
  });
}

void Userfault::wake(AddressRange range) const {
  uffdio_range raw = {range.begin, range.end - range.begin};
  // Fails only where nothing is registered any more, and then nobody waits.
  (void)::ioctl(fd_.get(), UFFDIO_WAKE, &raw);
}

}  // namespace migrate
