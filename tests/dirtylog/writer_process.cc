// A process to be tracked: does what its socket (descriptor 3) asks for, one message a command, and
// answers each with one message. Built without sanitizers, whose shadow memory would be tracked
// too.
//
// Numbers in messages are decimal; `pages` are pages of 4096 bytes. A failed call answers "error
// N".
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "area_shuffler.hpp"

namespace {

constexpr int kSocket = 3;
constexpr int kData = 4;  // What `read` reads from.
constexpr std::uint64_t kPage = 4096;

// Filled by spin_registers(): the general registers, then the xmm ones.
struct Registers {
  std::uint64_t general[14];
  std::uint64_t vector[32];
};
extern "C" {
std::uint64_t g_stop_spinning = 0;
std::uint64_t g_spins = 0;
void spin_registers(const Registers* load, Registers* store);
}

// Loads every register, goes round without touching any, and stores them when told to end.
asm(R"(
  .text
  .globl spin_registers
  .type spin_registers, @function
spin_registers:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  push %rsi
  mov %rdi, %rax
  movdqu 112(%rax), %xmm0
  movdqu 128(%rax), %xmm1
  movdqu 144(%rax), %xmm2
  movdqu 160(%rax), %xmm3
  movdqu 176(%rax), %xmm4
  movdqu 192(%rax), %xmm5
  movdqu 208(%rax), %xmm6
  movdqu 224(%rax), %xmm7
  movdqu 240(%rax), %xmm8
  movdqu 256(%rax), %xmm9
  movdqu 272(%rax), %xmm10
  movdqu 288(%rax), %xmm11
  movdqu 304(%rax), %xmm12
  movdqu 320(%rax), %xmm13
  movdqu 336(%rax), %xmm14
  movdqu 352(%rax), %xmm15
  mov 8(%rax), %rbx
  mov 16(%rax), %rcx
  mov 24(%rax), %rdx
  mov 32(%rax), %rsi
  mov 40(%rax), %rdi
  mov 48(%rax), %rbp
  mov 56(%rax), %r8
  mov 64(%rax), %r9
  mov 72(%rax), %r10
  mov 80(%rax), %r11
  mov 88(%rax), %r12
  mov 96(%rax), %r13
  mov 104(%rax), %r14
  mov 0(%rax), %rax
1:
  incq g_spins(%rip)
  cmpq $0, g_stop_spinning(%rip)
  je 1b
  push %rax
  mov 8(%rsp), %rax
  mov %rbx, 8(%rax)
  mov %rcx, 16(%rax)
  mov %rdx, 24(%rax)
  mov %rsi, 32(%rax)
  mov %rdi, 40(%rax)
  mov %rbp, 48(%rax)
  mov %r8, 56(%rax)
  mov %r9, 64(%rax)
  mov %r10, 72(%rax)
  mov %r11, 80(%rax)
  mov %r12, 88(%rax)
  mov %r13, 96(%rax)
  mov %r14, 104(%rax)
  movdqu %xmm0, 112(%rax)
  movdqu %xmm1, 128(%rax)
  movdqu %xmm2, 144(%rax)
  movdqu %xmm3, 160(%rax)
  movdqu %xmm4, 176(%rax)
  movdqu %xmm5, 192(%rax)
  movdqu %xmm6, 208(%rax)
  movdqu %xmm7, 224(%rax)
  movdqu %xmm8, 240(%rax)
  movdqu %xmm9, 256(%rax)
  movdqu %xmm10, 272(%rax)
  movdqu %xmm11, 288(%rax)
  movdqu %xmm12, 304(%rax)
  movdqu %xmm13, 320(%rax)
  movdqu %xmm14, 336(%rax)
  movdqu %xmm15, 352(%rax)
  pop %rbx
  mov %rbx, 0(%rax)
  pop %rsi
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .size spin_registers, .-spin_registers
)");

using Arguments = std::vector<std::uint64_t>;

std::string error() { return "error " + std::to_string(errno); }
std::string number(std::uint64_t value) { return std::to_string(value); }
std::string answer(const void* address) {
  return address == MAP_FAILED ? error() : number(reinterpret_cast<std::uint64_t>(address));
}
std::string answer(int result) { return result < 0 ? error() : "ok"; }
std::byte* memory(std::uint64_t address) { return reinterpret_cast<std::byte*>(address); }

/// Its result, errno and how long it took in microseconds, of a call that waits.
std::string timed(const std::function<long()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  errno = 0;
  const long result = call();
  const int failed = result < 0 ? errno : 0;
  const auto took = std::chrono::steady_clock::now() - begin;
  return std::to_string(result) + " " + std::to_string(failed) + " " +
         std::to_string(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
}

timespec milliseconds(std::uint64_t ms) {
  return {static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000) * 1'000'000};
}

// --- memory ---

/// Each of the pages gets `value` in its first word and in its last.
std::string write_pages(const Arguments& a) {
  for (std::uint64_t i = 0; i < a[1]; ++i) {
    std::memcpy(memory(a[0] + i * kPage), &a[2], sizeof(a[2]));
    std::memcpy(memory(a[0] + (i + 1) * kPage - sizeof(a[2])), &a[2], sizeof(a[2]));
  }
  return "ok";
}

std::string map_private(const Arguments& a) {
  return answer(
      ::mmap(nullptr, a[0] * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}
std::string map_at(const Arguments& a) {
  return answer(::mmap(memory(a[0]), a[1] * kPage, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
}
std::string map_reserved(const Arguments& a) {
  return answer(
      ::mmap(nullptr, a[0] * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
}
std::string map_shared(const Arguments& a) {
  const int fd = static_cast<int>(::syscall(SYS_memfd_create, "writer", 1U));
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(a[0] * kPage)) != 0) return error();
  void* made = ::mmap(nullptr, a[0] * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  return answer(made);
}
int g_shared = -1;  // Of map_read_only(), open for writing.
/// Shared memory by a descriptor that can only read.
std::string map_read_only(const Arguments& a) {
  g_shared = static_cast<int>(::syscall(SYS_memfd_create, "writer", 1U));
  if (g_shared < 0 || ::ftruncate(g_shared, static_cast<off_t>(a[0] * kPage)) != 0) return error();
  const std::string path = "/proc/self/fd/" + std::to_string(g_shared);
  const int reads = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* made = ::mmap(nullptr, a[0] * kPage, PROT_READ, MAP_SHARED, reads, 0);
  ::close(reads);
  return answer(made);
}
/// The same memory in the same place, so that it can be written.
std::string map_writable(const Arguments& a) {
  return answer(::mmap(memory(a[0]), a[1] * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                       g_shared, 0));
}
std::string unmap(const Arguments& a) { return answer(::munmap(memory(a[0]), a[1] * kPage)); }
std::string remap(const Arguments& a) {
  return answer(::mremap(memory(a[0]), a[1] * kPage, a[2] * kPage, MREMAP_MAYMOVE));
}
std::string move_to(const Arguments& a) {
  return answer(::mremap(memory(a[0]), a[1] * kPage, a[1] * kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
                         memory(a[2])));
}
std::string grow_heap(const Arguments& a) {
  const auto end = reinterpret_cast<std::uint64_t>(::sbrk(0));
  const std::uint64_t up = (kPage - end % kPage) % kPage;
  if (::sbrk(static_cast<std::intptr_t>(up + a[0] * kPage)) == MAP_FAILED) return error();
  return number(end + up);
}
std::string discard(const Arguments& a) {
  return answer(::madvise(memory(a[0]), a[1] * kPage, MADV_DONTNEED));
}
std::string advise(const Arguments& a) {
  return answer(::madvise(memory(a[0]), a[1] * kPage, static_cast<int>(a[2])));
}
std::string protect(const Arguments& a) {
  return answer(::mprotect(memory(a[0]), a[1] * kPage, static_cast<int>(a[2])));
}
/// The kernel writes: read(2) of `value`s into the pages.
std::string read_into(const Arguments& a) {
  int ends[2];
  if (::pipe(ends) != 0) return error();
  for (std::uint64_t i = 0; i < a[1]; ++i) {
    std::vector<std::uint64_t> page(kPage / 8, a[2]);
    if (::write(ends[1], page.data(), kPage) != static_cast<ssize_t>(kPage) ||
        ::read(ends[0], memory(a[0] + i * kPage), kPage) != static_cast<ssize_t>(kPage)) {
      return error();
    }
  }
  ::close(ends[0]);
  ::close(ends[1]);
  return "ok";
}
/// A child that writes the pages (as `write`) over and over until it is killed.
std::string fork_writer(const Arguments& a) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) write_pages(a);
  }
  return child < 0 ? error() : std::to_string(child);
}
std::string end_child(const Arguments& a) {
  const auto child = static_cast<pid_t>(a[0]);
  ::kill(child, SIGKILL);
  return answer(static_cast<int>(::waitpid(child, nullptr, 0)));
}

// --- threads ---

std::atomic<bool> g_stop_writers{false};
std::atomic<std::uint64_t> g_writes{0};
std::vector<std::thread> g_writers;

std::string start_writers(const Arguments& a) {
  g_stop_writers = false;
  for (std::uint64_t thread = 0; thread < a[2]; ++thread) {
    g_writers.emplace_back([a, thread] {
      std::uint64_t random = 88172645463325252U + thread;
      while (!g_stop_writers.load(std::memory_order_relaxed)) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        const std::uint64_t page = (random % (a[1] / a[2])) * a[2] + thread;
        std::memcpy(memory(a[0] + page * kPage + (random >> 40) % 500 * 8), &random,
                    sizeof(random));
        g_writes.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  return "ok";
}
std::string writes(const Arguments&) { return number(g_writes); }
std::string stop_writers(const Arguments&) {
  g_stop_writers = true;
  for (std::thread& writer : g_writers) writer.join();
  g_writers.clear();
  return number(g_writes);
}
std::string start_sleepers(const Arguments& a) {
  for (std::uint64_t i = 0; i < a[0]; ++i)
    std::thread([] {
      for (;;) ::pause();
    }).detach();
  return "ok";
}
/// A thread that unmaps memory, maps it anew in place and writes to it, again and again.
std::string start_renewing(const Arguments& a) {
  g_stop_writers = false;
  g_writers.emplace_back([a] {
    while (!g_stop_writers) {
      ::munmap(memory(a[0]), a[1] * kPage);
      map_at(a);
      write_pages({a[0], a[1], 1, 0});
      g_writes.fetch_add(1);
    }
  });
  return "ok";
}
/// A thread that changes and writes an area (area_shuffler.hpp).
std::string start_shuffling(const Arguments& a) {
  g_stop_writers = false;
  g_writers.emplace_back([a] {
    shuffle_area({a[0], a[1], a[2], a[3] != 0}, g_stop_writers, g_writes);
  });
  return "ok";
}
/// Threads that end at once, again and again.
std::string start_mayflies(const Arguments&) {
  g_stop_writers = false;
  g_writers.emplace_back([] {
    while (!g_stop_writers) std::thread([] { g_writes.fetch_add(1); }).join();
  });
  return "ok";
}

std::thread g_spinner;
std::atomic<bool> g_spun_well{false};

std::string start_spinning(const Arguments&) {
  g_stop_spinning = 0;
  g_spinner = std::thread([] {
    Registers load;
    Registers store;
    for (std::uint64_t i = 0; i < 14; ++i) load.general[i] = 0x1111'2222'3333'0000U + i;
    for (std::uint64_t i = 0; i < 32; ++i) load.vector[i] = 0x7777'6666'5555'0000U + i;
    spin_registers(&load, &store);
    g_spun_well = std::memcmp(&load, &store, sizeof(load)) == 0;
  });
  return "ok";
}
std::string stop_spinning(const Arguments&) {
  __atomic_store_n(&g_stop_spinning, 1, __ATOMIC_SEQ_CST);
  g_spinner.join();
  return g_spun_well ? "ok" : "changed";
}

// --- calls that wait ---

std::string wait_nanosleep(const Arguments& a) {
  return timed([&] {
    const timespec time = milliseconds(a[0]);
    return ::nanosleep(&time, nullptr);
  });
}
std::string wait_clock_nanosleep(const Arguments& a) {
  return timed([&] {
    const timespec time = milliseconds(a[0]);
    errno = ::clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
    return errno == 0 ? 0 : -1;
  });
}
std::string wait_futex(const Arguments& a) {
  return timed([&] {
    static std::uint32_t word = 0;
    const timespec time = milliseconds(a[0]);
    return ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, nullptr, 0);
  });
}
std::string wait_poll(const Arguments& a) {
  return timed([&] { return ::poll(nullptr, 0, static_cast<int>(a[0])); });
}
std::string wait_ppoll(const Arguments& a) {
  return timed([&] {
    const timespec time = milliseconds(a[0]);
    sigset_t none;
    sigemptyset(&none);
    return ::ppoll(nullptr, 0, &time, &none);
  });
}
/// Until data is there.
std::string wait_epoll(const Arguments&) {
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  ::epoll_ctl(epoll, EPOLL_CTL_ADD, kData, &event);
  std::string result = timed([&] { return ::epoll_wait(epoll, &event, 1, -1); });
  ::close(epoll);
  char byte = 0;
  (void)!::read(kData, &byte, 1);
  return result;
}
std::string wait_read(const Arguments&) {
  return timed([] {
    char byte = 0;
    return ::read(kData, &byte, 1) == 1 ? byte : -1;
  });
}
/// With a time limit on the socket, which makes an interrupted read fail with EINTR.
std::string wait_limited_read(const Arguments& a) {
  const timeval limit{static_cast<time_t>(a[0] / 1000),
                      static_cast<suseconds_t>(a[0] % 1000 * 1000)};
  const timeval none{};
  ::setsockopt(kData, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  std::string result = wait_read({});
  ::setsockopt(kData, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
  return result;
}
std::string wait_semaphore(const Arguments& a) {
  const int set = ::semget(IPC_PRIVATE, 1, 0600);
  std::string result = timed([&] {
    const timespec time = milliseconds(a[0]);
    sembuf down{0, -1, 0};
    return ::semtimedop(set, &down, 1, &time);
  });
  ::semctl(set, 0, IPC_RMID);
  return result;
}
/// Until SIGUSR1 comes, which is blocked but in the call.
std::string wait_suspended(const Arguments&) {
  sigset_t usual;
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  ::sigprocmask(SIG_BLOCK, &blocked, &usual);
  std::string result = timed([&] { return ::sigsuspend(&usual); });
  sigset_t after;
  ::sigprocmask(SIG_SETMASK, &usual, &after);
  return result + (sigismember(&after, SIGUSR1) == 1 ? " put-back" : " lost");
}

// --- signals ---

std::atomic<std::uint64_t> g_signals{0};
std::atomic<std::uint64_t> g_queued{0};
std::atomic<std::uint64_t> g_out_of_order{0};
std::atomic<std::uint64_t> g_alarms{0};

void on_queued(int, siginfo_t* info, void*) {
  const auto value = static_cast<std::uint64_t>(info->si_value.sival_int);
  if (value != g_queued.fetch_add(1)) ++g_out_of_order;
}

std::string handle_signals(const Arguments&) {
  struct sigaction action {};
  action.sa_flags = SA_RESTART;
  action.sa_handler = [](int) { ++g_signals; };
  ::sigaction(SIGUSR1, &action, nullptr);
  ::sigaction(SIGTRAP, &action, nullptr);
  action.sa_handler = [](int) { ++g_alarms; };
  ::sigaction(SIGALRM, &action, nullptr);
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  action.sa_sigaction = &on_queued;
  ::sigaction(SIGRTMIN, &action, nullptr);
  return "ok";
}
std::string set_alarm(const Arguments& a) {
  const timeval time{0, static_cast<suseconds_t>(a[0])};
  const itimerval timer{time, time};
  return answer(::setitimer(ITIMER_REAL, &timer, nullptr));
}
std::string signals(const Arguments&) {
  return number(g_signals) + " " + number(g_queued) + " " + number(g_out_of_order) + " " +
         number(g_alarms);
}
/// A filter that kills the process for what an injection would do.
std::string filter_calls(const Arguments&) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{4, program};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return error();
  return answer(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
}
/// Lives on without root's rights.
std::string drop_rights(const Arguments& a) {
  const auto id = static_cast<uid_t>(a[0]);
  if (::setresgid(id, id, id) != 0 || ::setresuid(id, id, id) != 0) return error();
  return answer(::prctl(PR_SET_DUMPABLE, 1));
}
std::string execute_again(const Arguments&) {
  ::execl("/proc/self/exe", "writer", nullptr);
  return error();
}

using Command = std::string (*)(const Arguments&);

const std::map<std::string, Command>& commands() {
  static const std::map<std::string, Command> all = {
      {"write", write_pages},
      {"map", map_private},
      {"map_at", map_at},
      {"reserve", map_reserved},
      {"map_shared", map_shared},
      {"map_read_only", map_read_only},
      {"map_writable", map_writable},
      {"unmap", unmap},
      {"remap", remap},
      {"move_to", move_to},
      {"grow_heap", grow_heap},
      {"discard", discard},
      {"advise", advise},
      {"protect", protect},
      {"read_into", read_into},
      {"fork_writer", fork_writer},
      {"end_child", end_child},
      {"start_writers", start_writers},
      {"writes", writes},
      {"stop_writers", stop_writers},
      {"start_sleepers", start_sleepers},
      {"start_renewing", start_renewing},
      {"start_shuffling", start_shuffling},
      {"start_mayflies", start_mayflies},
      {"start_spinning", start_spinning},
      {"stop_spinning", stop_spinning},
      {"nanosleep", wait_nanosleep},
      {"clock_nanosleep", wait_clock_nanosleep},
      {"futex", wait_futex},
      {"poll", wait_poll},
      {"ppoll", wait_ppoll},
      {"epoll", wait_epoll},
      {"read", wait_read},
      {"limited_read", wait_limited_read},
      {"semaphore", wait_semaphore},
      {"suspend", wait_suspended},
      {"handle_signals", handle_signals},
      {"set_alarm", set_alarm},
      {"signals", signals},
      {"filter_calls", filter_calls},
      {"drop_rights", drop_rights},
      {"execute_again", execute_again},
  };
  return all;
}

std::string run(const std::string& message) {
  std::istringstream words(message);
  std::string name;
  words >> name;
  Arguments arguments;
  for (std::uint64_t value = 0; words >> value;) arguments.push_back(value);
  arguments.resize(4);
  const auto command = commands().find(name);
  return command == commands().end() ? "unknown" : command->second(arguments);
}

}  // namespace

int main() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  char message[256];
  (void)::send(kSocket, "ready", 5, 0);
  for (;;) {
    const ssize_t got = ::recv(kSocket, message, sizeof(message), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) std::_Exit(0);
    const std::string answered = run(std::string(message, static_cast<std::size_t>(got)));
    (void)::send(kSocket, answered.data(), answered.size(), MSG_NOSIGNAL);
  }
}
