#include "tests/containers/source/small_tree.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "adapters/containers/source/process_tree.hpp"

namespace migrate::containers {
namespace {

constexpr std::size_t kProcessesMax = 32;

std::chrono::steady_clock::time_point deadline() {
  return std::chrono::steady_clock::now() + std::chrono::seconds(60);
}

constexpr int kEchoNumber = 3;

/// Of all descriptors: null as the first three, and `echo` as the fourth.
void keep_only(int echo) {
  if (echo >= 0 && echo != kEchoNumber) ::dup2(echo, kEchoNumber);
  ::close_range(echo >= 0 ? kEchoNumber + 1 : kEchoNumber, ~0U, 0);
  const int null = ::open("/dev/null", O_RDWR);
  for (int number = 0; number < 3; ++number) ::dup2(null, number);
  ::close(null);
}

void fill_private(std::size_t bytes) {
  if (bytes == 0) return;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) ::_exit(2);
  for (std::size_t at = 0; at < bytes; at += 8) {
    *reinterpret_cast<std::uint64_t*>(static_cast<char*>(memory) + at) = at * 0x9e3779b97f4a7c15;
  }
}

void answer_on(int socket) {
  std::array<char, 4096> text;
  const ssize_t got = ::recv(socket, text.data(), text.size(), MSG_DONTWAIT);
  if (got > 0) (void)!::write(socket, text.data(), static_cast<std::size_t>(got));
}

}  // namespace

struct SmallTree::Shared {
  std::atomic<std::uint32_t> wanted{0};   // Children that the root shall have.
  std::atomic<std::uint32_t> started{0};  // Processes that have said their number.
  std::array<std::atomic<std::uint64_t>, kProcessesMax> counts{};
};

std::string unified_group_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("0::")) return line.substr(3);
  }
  return {};
}

bool runs(pid_t pid) {
  const auto process = look_at_process(pid);
  return process && !process->zombie;
}

SmallTree::SmallTree(int children, int echo, std::size_t private_bytes, unsigned long namespaces) {
  void* memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  shared_ = new (memory) Shared;
  shared_->wanted = static_cast<std::uint32_t>(children);
  const pid_t test = ::getpid();
  const auto root =
      static_cast<pid_t>(::syscall(SYS_clone, namespaces | SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (root < 0) std::abort();
  if (root == 0) {
    ::setsid();
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if ((namespaces & CLONE_NEWPID) == 0 && ::getppid() != test) ::_exit(1);
    keep_only(echo);
    fill_private(private_bytes);
    const auto count = [this](std::uint32_t self) {
      ++shared_->started;
      for (;;) {
        ++shared_->counts[self];
        ::usleep(500);
      }
    };
    std::uint32_t forked = 0;
    ++shared_->started;
    for (;;) {
      ++shared_->counts[0];
      ::usleep(500);
      if (echo >= 0) answer_on(kEchoNumber);
      // One at a time, so that numbers come in order.
      if (forked >= shared_->wanted || shared_->started != forked + 1) continue;
      ++forked;
      if (::fork() == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        count(forked);
      }
    }
  }
  pids_.push_back(root);
  wait_for_pids(static_cast<std::size_t>(children) + 1);
}

SmallTree::~SmallTree() {
  end();
  ::munmap(shared_, sizeof(Shared));
}

void SmallTree::wait_for_pids(std::size_t count) {
  const auto until = deadline();
  while (shared_->started < count) {
    if (std::chrono::steady_clock::now() > until) std::abort();
    ::usleep(200);
  }
  // In the order in which they were born, as it happens, and as numbered here.
  const pid_t root = pids_.front();
  pids_.clear();
  for (const TreeProcess& process : list_descendants(root)) pids_.push_back(process.pid);
}

pid_t SmallTree::fork_one() {
  ++shared_->wanted;
  wait_for_pids(pids_.size() + 1);
  return pids_.back();
}

std::vector<std::uint64_t> SmallTree::counts() const {
  std::vector<std::uint64_t> all;
  for (std::size_t i = 0; i < pids_.size(); ++i) all.push_back(shared_->counts[i]);
  return all;
}

bool SmallTree::counts_on() const {
  const std::vector<std::uint64_t> before = counts();
  const auto until = deadline();
  for (;;) {
    const std::vector<std::uint64_t> now = counts();
    bool all = true;
    for (std::size_t i = 0; i < now.size(); ++i) all = all && now[i] > before[i];
    if (all) return true;
    if (std::chrono::steady_clock::now() > until) return false;
    ::usleep(200);
  }
}

void SmallTree::end() {
  for (auto pid = pids_.rbegin(); pid != pids_.rend(); ++pid) {
    if (runs(*pid)) ::kill(*pid, SIGKILL);
  }
  if (pids_.empty()) return;
  ::waitpid(pids_.front(), nullptr, 0);
  // The children are reaped by whoever they were handed to.
  const auto until = deadline();
  for (const pid_t pid : pids_) {
    while (runs(pid) && std::chrono::steady_clock::now() < until) ::usleep(200);
  }
  pids_.clear();
}

}  // namespace migrate::containers
