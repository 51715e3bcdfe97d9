// Maps 512 pages at a place that is known, all written to, and asks about them what it is told to
// on standard input, an answer a line:
//   scan FIRST END ROOM     pages [FIRST, END) as CRIU asks; "FIRST-END ... walked END"
//   guards FIRST END        the same, as CRIU looks for guard pages
//   smaps                   the first line of its own /proc/PID/smaps, opened as CRIU opens it
//   passcred FAMILY TYPE    SO_PASSCRED of a new socket: its value, or "error ERRNO"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

constexpr std::uint64_t kBase = 0x7e0000000000;
constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kPages = 512;

struct Region {
  std::uint64_t start, end, categories;
};
struct Scan {
  std::uint64_t size, flags, start, end, walk_end, regions, regions_max, pages_max;
  std::uint64_t inverted, mask, any_of, returned;
};

void scan(int pagemap, std::uint64_t first, std::uint64_t end, std::uint64_t room, bool guards) {
  constexpr std::uint64_t kFile = 4;
  constexpr std::uint64_t kPresent = 8;
  constexpr std::uint64_t kSwapped = 16;
  constexpr std::uint64_t kZero = 32;
  std::vector<Region> regions(room);
  Scan asked = {};
  asked.size = sizeof asked;
  asked.start = kBase + first * kPage;
  asked.end = kBase + end * kPage;
  asked.regions = reinterpret_cast<std::uint64_t>(regions.data());
  asked.regions_max = room;
  if (guards) {
    asked.mask = asked.returned =
        kFile;  // Guards are newer than some kernels; none of these is one.
  } else {
    asked.inverted = asked.mask = kZero | kFile;
    asked.any_of = asked.returned = kPresent | kSwapped;
  }
  const int found = ioctl(pagemap, _IOWR('f', 16, Scan), &asked);
  if (found < 0) {
    std::printf("error %d\n", errno);
    return;
  }
  const auto page = [](std::uint64_t address) {
    return static_cast<unsigned long>((address - kBase) / kPage);
  };
  for (int i = 0; i < found; ++i) {
    std::printf("%lu-%lu ", page(regions[i].start), page(regions[i].end));
  }
  std::printf("walked %lu\n", page(asked.walk_end));
}

void ask_socket(int family, int type) {
  const int fd = socket(family, type, 0);
  int value = 77;
  socklen_t size = sizeof value;
  if (getsockopt(fd, SOL_SOCKET, SO_PASSCRED, &value, &size) == 0) {
    std::printf("%d\n", value);
  } else {
    std::printf("error %d\n", errno);
  }
  close(fd);
}

void first_line_of_smaps() {
  const int folder = open("/proc/self", O_RDONLY | O_PATH | O_DIRECTORY | O_CLOEXEC);
  const int file = openat64(folder, "smaps", O_RDONLY);
  char text[256] = {};
  const ssize_t got = read(file, text, sizeof text - 1);
  text[std::strcspn(text, "\n")] = '\0';
  std::printf("%s\n", got < 0 ? "error" : text);
  close(file);
  close(folder);
}

}  // namespace

int main() {
  void* memory = mmap(reinterpret_cast<void*>(kBase), kPages * kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (memory == MAP_FAILED || pagemap < 0) return 1;
  madvise(memory, kPages * kPage, MADV_NOHUGEPAGE);
  std::memset(memory, 1, kPages * kPage);
  std::printf("ready\n");
  std::fflush(stdout);
  char line[128];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    unsigned long a = 0;
    unsigned long b = 0;
    unsigned long c = 0;
    if (std::sscanf(line, "scan %lu %lu %lu", &a, &b, &c) == 3) scan(pagemap, a, b, c, false);
    if (std::sscanf(line, "guards %lu %lu", &a, &b) == 2) scan(pagemap, a, b, 100, true);
    if (std::strcmp(line, "smaps\n") == 0) first_line_of_smaps();
    if (std::sscanf(line, "passcred %lu %lu", &a, &b) == 2) {
      ask_socket(static_cast<int>(a), static_cast<int>(b));
    }
    std::fflush(stdout);
  }
}
