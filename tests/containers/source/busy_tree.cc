#include "tests/containers/source/busy_tree.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>

#include "adapters/containers/source/process_tree.hpp"

namespace migrate::containers {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kAreasMax = 12;
constexpr std::size_t kPagesMax = 48;
constexpr std::int32_t kProcessesMax = 5;

struct Area {
  char* at = nullptr;
  std::size_t pages = 0;
  bool writable = true;
};

}  // namespace

struct BusyTree::Shared {
  std::atomic<std::uint64_t> forks{0};
  std::atomic<std::int32_t> processes{1};
};

namespace {

/// Allocates nothing: it runs after fork() of a program with threads.
class Mutator {
 public:
  Mutator(std::uint64_t seed, std::atomic<std::uint64_t>& forks,
          std::atomic<std::int32_t>& processes)
      : state_(seed * 2 + 1), forks_(forks), processes_(processes) {}

  [[noreturn]] void run(bool root) {
    for (std::uint64_t step = 0;; ++step) {
      while (::waitpid(-1, nullptr, WNOHANG) > 0) --processes_;
      act(areas_[next() % kAreasMax], next() % 100);
      if (next() % 400 == 0 && fork_one()) root = false;
      if (!root && next() % 2000 == 0) ::_exit(0);
      if (step % 16 == 0) ::usleep(200);
    }
  }

 private:
  std::uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  void write_page(const Area& area, std::size_t page) {
    auto* words = reinterpret_cast<volatile std::uint64_t*>(area.at + page * kPage);
    words[next() % (kPage / 8)] = next();
  }
  bool fork_one() {
    if (processes_.fetch_add(1) >= kProcessesMax) {
      --processes_;
      return false;
    }
    const pid_t child = ::fork();
    if (child < 0) --processes_;
    if (child != 0) return false;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ++forks_;
    state_ += static_cast<std::uint64_t>(::getpid()) * 977;
    return true;
  }
  void unmap(Area& area) {
    ::munmap(area.at, area.pages * kPage);
    area = {};
  }
  void act(Area& area, std::uint64_t what) {
    if (area.at == nullptr) {
      const std::size_t pages = next() % kPagesMax + 1;
      void* at = ::mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
      if (at != MAP_FAILED) area = {static_cast<char*>(at), pages, true};
      return;
    }
    if (what < 2) return unmap(area);
    if (what < 4) return move(area);
    if (what < 6) return protect(area);
    if (what < 8) return (void)::madvise(area.at, area.pages * kPage, MADV_DONTNEED);
    if (what == 8) return (void)::mlock(area.at, kPage);
    if (what == 9) return (void)::munlock(area.at, area.pages * kPage);
    if (what == 10) return map_within(area);
    if (area.writable) write_page(area, next() % area.pages);
  }
  void move(Area& area) {
    const std::size_t pages = next() % kPagesMax + 1;
    void* at = ::mremap(area.at, area.pages * kPage, pages * kPage, MREMAP_MAYMOVE);
    if (at == MAP_FAILED) return;
    area.at = static_cast<char*>(at);
    area.pages = pages;
  }
  void protect(Area& area) {
    area.writable = !area.writable;
    ::mprotect(area.at, area.pages * kPage, area.writable ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
  /// New memory in the place of some.
  void map_within(Area& area) {
    const std::size_t page = next() % area.pages;
    if (!area.writable) return;
    (void)::mmap(area.at + page * kPage, kPage, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  }

  std::uint64_t state_;
  std::atomic<std::uint64_t>& forks_;
  std::atomic<std::int32_t>& processes_;
  Area areas_[kAreasMax];
};

}  // namespace

BusyTree::BusyTree(unsigned seed) {
  void* memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  shared_ = new (memory) Shared;
  const pid_t test = ::getpid();
  root_ = ::fork();
  if (root_ < 0) std::abort();
  if (root_ == 0) {
    ::setsid();
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Whose parent ends stays in the tree.
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (::getppid() != test) ::_exit(1);
    Mutator(seed, shared_->forks, shared_->processes).run(true);
  }
}

BusyTree::~BusyTree() {
  // From the root down, again and again: what dies hands its children to the root.
  for (const TreeProcess& process : list_descendants(root_)) ::kill(process.pid, SIGSTOP);
  const auto tree = list_descendants(root_);
  for (const TreeProcess& process : tree) ::kill(process.pid, SIGKILL);
  ::waitpid(root_, nullptr, 0);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (const TreeProcess& process : tree) {
    for (;;) {
      const auto now = look_at_process(process.pid);
      if (!now || now->zombie || now->start_time != process.start_time) break;
      if (std::chrono::steady_clock::now() > until) break;
      ::usleep(200);
    }
  }
  ::munmap(shared_, sizeof(Shared));
}

std::uint64_t BusyTree::forks() const { return shared_->forks; }

}  // namespace migrate::containers
