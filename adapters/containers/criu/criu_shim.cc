// libmigrate-criu-shim.so: keeps the CRIU that it is loaded into (LD_PRELOAD) from reading memory
// that the engine moves. CRIU finds the pages to copy by PAGEMAP_SCAN on /proc/PID/pagemap; what is
// in a hidden area (hidden_layout.hpp) is left out of the kernel's answer. And where
// /proc/PID/smaps has been read for it, it is given that.
//
// Whatever is not understood passes through as it is: hiding too little makes CRIU slow, hiding
// what the engine does not have would fill memory with zeros.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "adapters/containers/criu/hidden_layout.hpp"

namespace {

using migrate::containers::HiddenEntry;
using migrate::containers::HiddenHeader;
using migrate::containers::SmapsEntry;

// linux/fs.h has these since 6.7 only; they are the kernel's interface.
struct Region {
  std::uint64_t start, end, categories;
};
struct Scan {
  std::uint64_t size, flags, start, end, walk_end, regions, regions_max, pages_max;
  std::uint64_t inverted, mask, any_of, returned;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, Scan);
constexpr std::uint64_t kPresent = 1U << 3;
constexpr std::uint64_t kSwapped = 1U << 4;

// For a text that is being read: then CRIU reads for itself, as it would have from the first.
constexpr int kSmapsWaitsMax = 20'000;
constexpr useconds_t kSmapsWaitUs = 100;

const HiddenHeader* list = nullptr;  // Set once, before main().
int list_fd = -1;

const HiddenEntry* entries() { return reinterpret_cast<const HiddenEntry*>(list + 1); }

__attribute__((constructor)) void map_list() {
  const char* text = std::getenv(migrate::containers::kHiddenVariable);
  if (text == nullptr) return;
  const int fd = std::atoi(text);
  // Only a file that cannot shrink under the mapping. It grows before its count does.
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || lseek(fd, 0, SEEK_END) < 16) return;
  void* mapped = mmap(nullptr, migrate::containers::kHiddenBytesMax, PROT_READ, MAP_SHARED, fd, 0);
  // The descriptor stays: this may be a script's shell, and CRIU what it runs next.
  if (mapped == MAP_FAILED) return;
  const auto* header = static_cast<const HiddenHeader*>(mapped);
  if (header->magic != migrate::containers::kHiddenMagic) return;
  list = header;
  list_fd = fd;
}

/// "4711" -> 4711; 0 for anything else.
std::uint64_t process_number(const char* text) {
  char* end = nullptr;
  const unsigned long pid = std::strtoul(text, &end, 10);
  return end != text && *end == '\0' ? pid : 0;
}

/// Where `fd` leads, without its last '/'; that is where the last part begins. Null: nowhere known.
char* last_part(int fd, char (&link)[128]) {
  char name[32];
  std::snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(name, link, sizeof link);
  if (length <= 0 || length >= static_cast<ssize_t>(sizeof link)) return nullptr;
  link[length] = '\0';
  char* last = std::strrchr(link, '/');
  if (last != nullptr) *last++ = '\0';
  return last;
}

/// "/proc/4711/pagemap" -> 4711, wherever proc is mounted; 0 for anything else.
std::uint64_t named_process(int fd) {
  char link[128];
  const char* file = last_part(fd, link);
  if (file == nullptr || std::strcmp(file, "pagemap") != 0) return 0;
  const char* folder = std::strrchr(link, '/');
  return folder == nullptr ? 0 : process_number(folder + 1);
}

/// The same, known from the last time where it is the same file: the name costs 9 us, this less
/// than one, and CRIU asks once a mapping while the tree stands. A number is used again for the
/// next process's file, which is another inode; CRIU has one thread.
std::uint64_t process_of(int fd) {
  static struct stat known = {};
  static std::uint64_t process = 0;
  struct stat file = {};
  if (fstat(fd, &file) != 0) return 0;
  if (process == 0 || file.st_ino != known.st_ino || file.st_dev != known.st_dev) {
    process = named_process(fd);
    known = file;
  }
  return process;
}

/// The first entry of `pid` that ends after `address`, or of a later process, or the list's end.
std::uint64_t first_after(std::uint64_t count, std::uint64_t pid, std::uint64_t address) {
  std::uint64_t low = 0;
  std::uint64_t high = count;
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    const HiddenEntry& entry = entries()[middle];
    if (entry.pid < pid || (entry.pid == pid && entry.end <= address)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

bool is_in(std::uint64_t count, std::uint64_t at, std::uint64_t pid, std::uint64_t end) {
  return at < count && entries()[at].pid == pid && entries()[at].begin < end;
}

/// Whether `scan` looks for pages to copy: not the search for guard pages, not the probe of what
/// the kernel can do (no regions), not a scan that changes something.
bool asks_for_memory(const Scan& scan) {
  return scan.size == sizeof(Scan) && scan.flags == 0 && scan.pages_max == 0 && scan.regions != 0 &&
         scan.regions_max > 1 && scan.start < scan.end &&
         (scan.any_of & (kPresent | kSwapped)) != 0 && (scan.returned & kPresent) != 0;
}

/// What is left of a region, to `regions[out]` and what follows, of which `end` is the first that
/// is not free; there is at least one. Where the pieces need more, the last is not cut any further.
std::uint64_t cut_one(Region region, Region* regions, std::uint64_t out, std::uint64_t end,
                      std::uint64_t count, std::uint64_t pid) {
  for (std::uint64_t at = first_after(count, pid, region.start);
       is_in(count, at, pid, region.end) && region.start < region.end; ++at) {
    const HiddenEntry& hidden = entries()[at];
    if (hidden.begin > region.start) {
      if (hidden.end < region.end && out + 1 == end) break;
      regions[out++] = {region.start, hidden.begin, region.categories};
    }
    region.start = hidden.end;
  }
  if (region.start < region.end) regions[out++] = region;
  return out;
}

/// Cuts the hidden areas out of the kernel's answer of `used` regions; how many are left. The array
/// has room for more: the answer is moved to its end, and the pieces go to its beginning.
std::uint64_t cut_out(Region* regions, std::uint64_t room, std::uint64_t used, std::uint64_t count,
                      std::uint64_t pid) {
  if (used > room) return used;
  const std::uint64_t moved = room - used;
  std::memmove(regions + moved, regions, used * sizeof(Region));
  std::uint64_t out = 0;
  for (std::uint64_t i = moved; i < room; ++i) {
    out = cut_one(regions[i], regions, out, i + 1, count, pid);
  }
  return out;
}

long scan_without_hidden(int fd, Scan& scan) {
  const std::uint64_t count = list->count;
  if (count == 0 || count > migrate::containers::kHiddenCountMax || !asks_for_memory(scan)) {
    return syscall(SYS_ioctl, fd, kPagemapScan, &scan);
  }
  const int before = errno;
  const std::uint64_t pid = process_of(fd);
  errno = before;
  const std::uint64_t first = pid == 0 ? count : first_after(count, pid, scan.start);
  if (is_in(count, first, pid, scan.end) && entries()[first].begin <= scan.start &&
      entries()[first].end >= scan.end) {
    scan.walk_end = scan.end;
    return 0;
  }
  const long found = syscall(SYS_ioctl, fd, kPagemapScan, &scan);
  if (found <= 0 || !is_in(count, first, pid, scan.end)) return found;
  // Some hidden, some not: CRIU scans small neighbouring mappings in one window of 2 MiB.
  return static_cast<long>(cut_out(reinterpret_cast<Region*>(scan.regions), scan.regions_max,
                                   static_cast<std::uint64_t>(found), count, pid));
}

/// False: there is none, or not yet.
bool find_smaps(std::uint64_t pid, SmapsEntry& found) {
  const std::uint64_t count = __atomic_load_n(&list->smaps_count, __ATOMIC_ACQUIRE);
  for (std::uint64_t i = 0; i < count && i < migrate::containers::kSmapsCountMax; ++i) {
    const auto at = static_cast<off_t>(migrate::containers::kSmapsAt + i * sizeof(SmapsEntry));
    if (pread(list_fd, &found, sizeof found, at) != sizeof found) return false;
    if (found.pid == pid) return true;
  }
  return false;
}

/// A file with what was read for CRIU of the process whose folder `folder` is; -1: none.
int smaps_of(int folder) {
  char link[128];
  const char* number = last_part(folder, link);
  const std::uint64_t pid = number == nullptr ? 0 : process_number(number);
  SmapsEntry text;
  bool found = pid != 0 && find_smaps(pid, text);
  for (int i = 0; i < kSmapsWaitsMax && pid != 0 && !found; ++i) {
    const bool more = __atomic_load_n(&list->smaps_awaited, __ATOMIC_ACQUIRE) != 0;
    if (more) usleep(kSmapsWaitUs);
    found = find_smaps(pid, text);
    if (!more) break;
  }
  if (!found) return -1;
  const int file = memfd_create("smaps", MFD_CLOEXEC);
  auto from = static_cast<off_t>(text.at);
  std::uint64_t done = 0;
  while (file >= 0 && done < text.bytes) {
    const ssize_t copied = sendfile(file, list_fd, &from, text.bytes - done);
    if (copied <= 0) break;
    done += static_cast<std::uint64_t>(copied);
  }
  if (file >= 0 && done == text.bytes && lseek(file, 0, SEEK_SET) == 0) return file;
  if (file >= 0) close(file);
  return -1;
}

/// CRIU 4.1 asks every socket for what kernels from 6.16 on only answer for some families, and
/// takes the error for the end of its dump. Before that the answer was always that it is off.
bool is_off_by_nature(int fd, int level, int option) {
  if (level != SOL_SOCKET || (option != SO_PASSCRED && option != SO_PASSSEC)) return false;
  int family = AF_UNSPEC;
  socklen_t size = sizeof family;
  return syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &family, &size) == 0 &&
         (family == AF_INET || family == AF_INET6);
}

}  // namespace

#define MIGRATE_SHIM extern "C" __attribute__((visibility("default")))

// As the C library does it on systems of 64 bits: no more than the system call.
MIGRATE_SHIM int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (request == kPagemapScan && list != nullptr && argument != nullptr) {
    return static_cast<int>(scan_without_hidden(fd, *static_cast<Scan*>(argument)));
  }
  return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
}

// As programs call it that are built for large files, which on systems of 64 bits are no others.
MIGRATE_SHIM int openat64(int folder, const char* name, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const auto mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if (list != nullptr && (flags & O_ACCMODE) == O_RDONLY && std::strcmp(name, "smaps") == 0) {
    const int before = errno;
    const int text = smaps_of(folder);
    if (text >= 0) return text;
    errno = before;
  }
  return static_cast<int>(syscall(SYS_openat, folder, name, flags, mode));
}

MIGRATE_SHIM int getsockopt(int fd, int level, int option, void* value, socklen_t* size) noexcept {
  const auto result = static_cast<int>(syscall(SYS_getsockopt, fd, level, option, value, size));
  if (result == 0 || errno != EOPNOTSUPP) return result;
  const bool off = is_off_by_nature(fd, level, option) && value != nullptr && *size == sizeof(int);
  errno = EOPNOTSUPP;
  if (!off) return result;
  std::memset(value, 0, sizeof(int));
  return 0;
}
