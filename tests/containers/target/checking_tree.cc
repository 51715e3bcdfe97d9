// Two processes that check memory over and over and count that in the file that is named. A program
// of its own, without sanitizers, for it is dumped: their memory is terabytes.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace {

constexpr std::uint64_t kPages = 4096;

std::uint64_t word_at(std::uint64_t page) {
  return page % 5 == 4 ? 0 : (page + 1) * 0x9E37'79B9'7F4A'7C15u;
}

/// Never returns. Which of the two is `which`.
[[noreturn]] void check_for_ever(std::uint64_t* memory, int file, unsigned which) {
  std::uint64_t checks = 0;
  for (;;) {
    std::uint64_t wrong = 0;
    for (std::uint64_t page = 0; page < kPages; ++page) {
      for (std::uint64_t word = 0; word < 512; word += 73) {
        if (memory[page * 512 + word] != word_at(page)) ++wrong;
      }
    }
    ++checks;
    const bool counted = ::pwrite(file, &checks, 8, which * 8) == 8;
    if (wrong > 0 || !counted) [[maybe_unused]]
      const auto told = ::pwrite(file, &wrong, 8, 16);
    ::usleep(1000);
  }
}

[[noreturn]] void be_tree(const char* counts) {
  ::setsid();
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
  ::close_range(3, ~0u, 0);
  const int file = ::open(counts, O_RDWR | O_CREAT, 0600);
  auto* memory = static_cast<std::uint64_t*>(
      ::mmap(nullptr, kPages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (std::uint64_t page = 0; page < kPages; ++page) {
    if (word_at(page) == 0) continue;
    for (std::uint64_t word = 0; word < 512; ++word) memory[page * 512 + word] = word_at(page);
  }
  check_for_ever(memory, file, ::fork() == 0 ? 1 : 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2) be_tree(argv[1]);
  return 1;
}
