// What a disk or a tmpfs takes and gives, bare: as many bytes as an image has, with nothing done to
// them. See bench/checkpoint.
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "bench/measuring.hpp"
#include "migrate/memory.hpp"

namespace migrate::bench {
namespace {

constexpr const char* kUsage =
    "usage: raw_disk --write FILE --bytes SIZE [--threads N] [--cached] [--keep] [--json]\n"
    "       raw_disk --read FILE [--threads N] [--cached] [--fresh] [--json]\n"
    "Writes a file of SIZE random bytes from memory that is there, and flushes it; or reads all "
    "of\n"
    "one. Blocks of 1 MiB, four of each thread under way, by O_DIRECT and io_uring.\n"
    "  --threads  1 to 64 [one a processor]\n"
    "  --cached   through the page cache, one block of each thread at a time; all that a tmpfs "
    "has\n"
    "  --fresh    into memory that nobody has touched, as a restored guest's is\n"
    "  --keep     does not remove the file that was written\n";

constexpr std::size_t kBlock = 1 << 20;
constexpr std::size_t kUnderWay = 4;
constexpr unsigned kThreadsMax = 64;
constexpr std::uint64_t kHugePage = 2 << 20;

struct Settings {
  std::string file;
  bool write = false;
  std::uint64_t bytes = 0;
  unsigned threads = std::max(1u, std::thread::hardware_concurrency());
  bool cached = false;
  bool fresh = false;
  bool keep = false;
  bool json = false;
};

[[noreturn]] void give_up_errno(const std::string& what, int error) {
  give_up(what + ": " + std::strerror(error));
}

/// Anonymous memory; touched at once, or by who reads into it.
class Memory {
 public:
  Memory(std::uint64_t bytes, bool touched) : bytes_((bytes / kHugePage + 2) * kHugePage) {
    void* const at =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) give_up_errno("mmap", errno);
    mapping_ = static_cast<std::byte*>(at);
    // Huge pages where they may be, as guests have them.
    (void)::madvise(mapping_, bytes_, MADV_HUGEPAGE);
    if (!touched) return;
    // Of a random sequence: no layer below makes less of it.
    std::mt19937_64 random(1);
    for (std::uint64_t i = 0; i < bytes_; i += sizeof(std::uint64_t)) {
      const std::uint64_t word = random();
      std::memcpy(mapping_ + i, &word, sizeof word);
    }
  }
  ~Memory() { ::munmap(mapping_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] std::byte* begin() const {
    const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
    return mapping_ + (kHugePage - address % kHugePage) % kHugePage;
  }

 private:
  const std::uint64_t bytes_;
  std::byte* mapping_ = nullptr;
};

/// What all threads share: each takes the next block.
struct Work {
  const Settings& settings;
  int fd;
  std::uint64_t bytes;
  std::byte* whole = nullptr;  ///< Where block i has its place of its own; else buffers are reused.
  std::atomic<std::uint64_t> next{0};

  [[nodiscard]] std::uint64_t take() { return next.fetch_add(kBlock, std::memory_order_relaxed); }
  [[nodiscard]] std::size_t size_at(std::uint64_t at) const {
    return static_cast<std::size_t>(std::min<std::uint64_t>(kBlock, bytes - at));
  }
};

void move_cached(Work& work, std::byte* buffer) {
  for (std::uint64_t at = work.take(); at < work.bytes; at = work.take()) {
    std::byte* const begin = work.whole != nullptr ? work.whole + at : buffer;
    for (std::size_t done = 0; done < work.size_at(at);) {
      const std::size_t left = work.size_at(at) - done;
      const auto offset = static_cast<off_t>(at + done);
      const ssize_t moved = work.settings.write ? ::pwrite(work.fd, begin + done, left, offset)
                                                : ::pread(work.fd, begin + done, left, offset);
      if (moved < 0 && errno == EINTR) continue;
      if (moved <= 0) give_up_errno(work.settings.file, moved < 0 ? errno : EIO);
      done += static_cast<std::size_t>(moved);
    }
  }
}

class Ring {
 public:
  Ring() {
    const int made = ::io_uring_queue_init(kUnderWay, &ring_, 0);
    if (made < 0) give_up_errno("io_uring", -made);
  }
  ~Ring() { ::io_uring_queue_exit(&ring_); }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  void start(const Work& work, std::byte* memory, std::uint64_t at, std::uint64_t slot) {
    io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
    const auto bytes = static_cast<unsigned>(work.size_at(at));
    if (work.settings.write) {
      ::io_uring_prep_write(entry, work.fd, memory, bytes, at);
    } else {
      ::io_uring_prep_read(entry, work.fd, memory, bytes, at);
    }
    entry->user_data = slot;
    expected_[slot] = static_cast<int>(bytes);
    const int submitted = ::io_uring_submit(&ring_);
    if (submitted < 0) give_up_errno("io_uring", -submitted);
  }

  /// The slot that is free again.
  std::uint64_t wait(const Work& work) {
    io_uring_cqe* completion = nullptr;
    int waited = 0;
    do {
      waited = ::io_uring_wait_cqe(&ring_, &completion);
    } while (waited == -EINTR);
    if (waited < 0) give_up_errno("io_uring", -waited);
    const std::uint64_t slot = completion->user_data;
    const int moved = completion->res;
    ::io_uring_cqe_seen(&ring_, completion);
    if (moved < 0) give_up_errno(work.settings.file, -moved);
    if (moved != expected_[slot]) give_up(work.settings.file + ": a block was cut short");
    return slot;
  }

 private:
  io_uring ring_{};
  std::array<int, kUnderWay> expected_{};
};

void move_direct(Work& work, std::byte* buffers) {
  Ring ring;
  std::size_t under_way = 0;
  const auto start_next = [&](std::uint64_t slot) {
    const std::uint64_t at = work.take();
    if (at >= work.bytes) return;
    std::byte* const memory = work.whole != nullptr ? work.whole + at : buffers + slot * kBlock;
    ring.start(work, memory, at, slot);
    ++under_way;
  };
  for (std::uint64_t slot = 0; slot < kUnderWay; ++slot) start_next(slot);
  while (under_way > 0) {
    const std::uint64_t slot = ring.wait(work);
    --under_way;
    start_next(slot);
  }
}

Fd open_file(const Settings& settings) {
  const int way = settings.write ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY;
  Fd file(::open(settings.file.c_str(), way | O_CLOEXEC | (settings.cached ? 0 : O_DIRECT), 0600));
  if (!file) give_up_errno(settings.file, errno);
  return file;
}

double run(const Settings& settings, std::uint64_t bytes) {
  const Fd file = open_file(settings);
  std::unique_ptr<Memory> fresh;
  if (settings.fresh) fresh = std::make_unique<Memory>(bytes, false);
  Work work{settings, file.get(), bytes, fresh ? fresh->begin() : nullptr};
  const Memory buffers(settings.threads * kUnderWay * kBlock, !settings.fresh);
  const auto begin = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < settings.threads; ++i) {
      std::byte* const own = buffers.begin() + i * kUnderWay * kBlock;
      threads.emplace_back(
          [&, own] { settings.cached ? move_cached(work, own) : move_direct(work, own); });
    }
  }
  if (settings.write && ::fsync(file.get()) != 0) give_up_errno(settings.file, errno);
  const auto took = std::chrono::steady_clock::now() - begin;
  return std::chrono::duration<double, std::milli>(took).count();
}

std::uint64_t file_bytes(const Settings& settings) {
  struct stat info {};
  if (::stat(settings.file.c_str(), &info) != 0) give_up_errno(settings.file, errno);
  // O_DIRECT reads whole blocks of the disk.
  return static_cast<std::uint64_t>(info.st_size) / kPageSize * kPageSize;
}

Settings parse(Arguments arguments) {
  Settings settings;
  while (arguments.next()) {
    if (arguments.name() == "--write" || arguments.name() == "--read") {
      if (!settings.file.empty()) arguments.misunderstood();
      settings.write = arguments.name() == "--write";
      settings.file = std::string(arguments.value());
    } else if (arguments.name() == "--bytes") {
      settings.bytes = arguments.size();
    } else if (arguments.name() == "--threads") {
      settings.threads = arguments.count();
    } else if (arguments.name() == "--cached") {
      settings.cached = true;
    } else if (arguments.name() == "--fresh") {
      settings.fresh = true;
    } else if (arguments.name() == "--keep") {
      settings.keep = true;
    } else if (arguments.name() == "--json") {
      settings.json = true;
    } else {
      arguments.misunderstood();
    }
  }
  if (settings.file.empty() || settings.write != (settings.bytes > 0) ||
      settings.threads > kThreadsMax || (settings.fresh && settings.write)) {
    arguments.misunderstood();
  }
  return settings;
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  using namespace migrate::bench;
  const Settings settings = parse(Arguments(argc, argv, kUsage));
  const std::uint64_t bytes = settings.write ? settings.bytes : file_bytes(settings);
  const double cpu = cpu_seconds();
  const double ms = run(settings, bytes);
  const double cpu_s = cpu_seconds() - cpu;
  if (settings.write && !settings.keep) ::unlink(settings.file.c_str());
  const double gb_per_s = ms > 0 ? static_cast<double>(bytes) / 1e6 / ms : 0;
  if (settings.json) {
    std::printf(
        "{\"schema\":\"migrate-bench-raw-disk\",\"version\":1,\"host\":%s,\"what\":%s,"
        "\"bytes\":%llu,\"threads\":%u,\"cached\":%s,\"fresh\":%s,\"ms\":%f,\"cpu_s\":%f}\n",
        host_json().c_str(), quoted(settings.write ? "write" : "read").c_str(),
        static_cast<unsigned long long>(bytes), settings.threads,
        settings.cached ? "true" : "false", settings.fresh ? "true" : "false", ms, cpu_s);
  } else {
    std::printf("%s, %.1f MB, %u threads: %.1f ms, %.2f GB/s, %.2f s of processor time\n",
                settings.write ? "write" : "read", static_cast<double>(bytes) / 1e6,
                settings.threads, ms, gb_per_s, cpu_s);
  }
  return 0;
}
