#include "bench/tracked_memory.hpp"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include <chrono>
#include <string>

namespace migrate::bench {
namespace {

constexpr std::uint64_t kHugeBytes = std::uint64_t{2} << 20;

}  // namespace

std::string_view to_string(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kAnonymous:
      return "anonymous";
    case MemoryKind::kHugePages:
      return "huge pages";
    case MemoryKind::kMemfd:
      return "memfd";
  }
  return "";
}

TrackedMemory::TrackedMemory(MemoryKind kind, std::uint64_t bytes) : kind_(kind), bytes_(bytes) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (kind == MemoryKind::kMemfd) {
    memfd_ = Fd(::memfd_create("bench-dirtylog", MFD_CLOEXEC));
    if (!memfd_ || ::ftruncate(memfd_.get(), static_cast<off_t>(bytes)) != 0) {
      give_up("memfd of " + std::to_string(bytes) + " bytes: no memory");
    }
    flags = MAP_SHARED;
  }
  void* room = ::mmap(nullptr, bytes + kHugeBytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) give_up("no addresses for memory to be tracked");
  room_ = static_cast<std::byte*>(room);
  const auto address = reinterpret_cast<std::uintptr_t>(room);
  base_ = room_ + (kHugeBytes - address % kHugeBytes) % kHugeBytes;
  if (::mmap(base_, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, memfd_.get(), 0) ==
      MAP_FAILED) {
    give_up("no memory to be tracked");
  }
  ::madvise(base_, bytes, kind == MemoryKind::kHugePages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  write(1);
}

TrackedMemory::~TrackedMemory() { ::munmap(room_, bytes_ + kHugeBytes); }

Backing TrackedMemory::backing() const {
  return kind_ == MemoryKind::kMemfd ? Backing::kMemfd : Backing::kAnonymous;
}

MappedRegion TrackedMemory::region() const {
  return {{{0, 0, 0}, {{0}, pages()}, backing()}, base_};
}

void TrackedMemory::write(std::uint64_t step) const {
  for (std::uint64_t number = 0; number < pages(); number += step) {
    auto* word = reinterpret_cast<volatile std::uint64_t*>(page(number));
    *word = *word + 1;
  }
}

double ticks_per_ms() {
  static const double ticks = [] {
    const auto begin = std::chrono::steady_clock::now();
    const std::uint64_t first = __rdtsc();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::uint64_t last = __rdtsc();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    return static_cast<double>(last - first) / took.count();
  }();
  return ticks;
}

void run_first() {
  sched_param first{};
  first.sched_priority = 1;
  (void)::sched_setscheduler(0, SCHED_FIFO, &first);
}

SpinningWriter::SpinningWriter(const TrackedMemory& memory)
    : thread_([this, &memory] { run(memory); }) {
  while (!started_.load()) std::this_thread::yield();
}

void SpinningWriter::run(const TrackedMemory& memory) {
  run_first();
  std::uint64_t number = 0;
  std::uint64_t before = __rdtsc();
  started_ = true;
  while (!quit_.load(std::memory_order_relaxed)) {
    auto* word = reinterpret_cast<volatile std::uint64_t*>(memory.page(number));
    *word = *word + 1;
    number = number + 1 < memory.pages() ? number + 1 : 0;
    const std::uint64_t now = __rdtsc();
    if (now - before > longest_) longest_ = now - before;
    before = now;
  }
}

double SpinningWriter::stop() {
  if (!thread_.joinable()) return 0;
  quit_ = true;
  thread_.join();
  return static_cast<double>(longest_) / ticks_per_ms();
}

}  // namespace migrate::bench
