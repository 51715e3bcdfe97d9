// Each test makes a tree with one obstacle and looks for it by name.
#include "adapters/containers/source/obstacles.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include "base/fd.hpp"
#include "memory/process_maps.hpp"

namespace migrate::containers {
namespace {

/// A process that runs `prepare` and waits; gone with this object.
class Prepared {
 public:
  explicit Prepared(const std::function<bool()>& prepare, bool session = true) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (session) ::setsid();
      const int null = ::open("/dev/null", O_RDWR);
      for (int number = 0; number < 3; ++number) ::dup2(null, number);
      ::dup2(ready[1], 3);
      ::close_range(4, ~0U, 0);
      const char done = prepare() ? 'y' : 'n';
      (void)!::write(3, &done, 1);
      ::close(3);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    char done = 0;
    EXPECT_EQ(::read(ready[0], &done, 1), 1);
    ::close(ready[0]);
    ready_ = done == 'y';
  }
  ~Prepared() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Prepared(const Prepared&) = delete;
  Prepared& operator=(const Prepared&) = delete;
  [[nodiscard]] bool ready() const { return ready_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

  [[nodiscard]] std::string blockers() const {
    ContainerSourceOptions options;
    options.root = pid_;
    std::string all;
    for (const ContainerFinding& finding : find_obstacles(options)) {
      if (!finding.blocks) continue;
      EXPECT_FALSE(finding.remedy.empty()) << finding.what;
      all += finding.what + "\n";
    }
    return all;
  }

 private:
  pid_t pid_ = 0;
  bool ready_ = false;
};

TEST(Obstacles, PlainProcessHasNone) {
  const Prepared plain([] {
    (void)::open("/dev/urandom", O_RDONLY);
    (void)::open("/dev/zero", O_RDONLY);
    (void)::open("/dev/full", O_RDWR);
    (void)::open("/dev/ptmx", O_RDWR | O_NOCTTY);
    (void)::syscall(SYS_memfd_create, "some", 0);
    (void)::syscall(SYS_eventfd2, 0, 0);
    (void)::syscall(SYS_epoll_create1, 0);
    (void)::syscall(SYS_inotify_init1, 0);
    (void)::syscall(SYS_timerfd_create, 1, 0);
    (void)::socket(AF_INET, SOCK_STREAM, 0);
    (void)::socket(AF_INET6, SOCK_DGRAM, 0);
    (void)::socket(AF_UNIX, SOCK_STREAM, 0);
    int pair[2];
    return ::pipe(pair) == 0;
  });
  EXPECT_EQ(plain.blockers(), "");
}

TEST(Obstacles, RingOfIoUringBlocks) {
  const Prepared ring([] {
    io_uring_params params{};
    return ::syscall(SYS_io_uring_setup, 4, &params) >= 0;
  });
  if (!ring.ready()) GTEST_SKIP() << "no io_uring here";
  EXPECT_THAT(ring.blockers(), ::testing::HasSubstr("io_uring"));
  ContainerSourceOptions options;
  options.root = ring.pid();
  if (::geteuid() != 0) return;
  const Status refused = refuse_obstacles(options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(refused.error().remedy, ::testing::HasSubstr("io_uring"));
}

TEST(Obstacles, AsynchronousIoBlocks) {
  const Prepared aio([] {
    unsigned long context = 0;
    return ::syscall(SYS_io_setup, 4, &context) == 0;
  });
  if (!aio.ready()) GTEST_SKIP() << "no io_setup here";
  EXPECT_THAT(aio.blockers(), ::testing::HasSubstr("asynchronous I/O"));
}

TEST(Obstacles, UserfaultfdOfItsOwnBlocks) {
  const Prepared faults([] { return ::syscall(SYS_userfaultfd, O_CLOEXEC | 1) >= 0; });
  if (!faults.ready()) GTEST_SKIP() << "no userfaultfd here";
  EXPECT_THAT(faults.blockers(), ::testing::HasSubstr("userfaultfd"));
}

TEST(Obstacles, TerminalFromOutsideBlocksAndOneOfItsOwnDoesNot) {
  const Fd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master || ::unlockpt(master.get()) != 0) GTEST_SKIP() << "no terminals here";
  char name[64];
  ASSERT_EQ(::ptsname_r(master.get(), name, sizeof(name)), 0);
  const std::string path = name;
  const Prepared outside([&] { return ::open(path.c_str(), O_RDWR | O_NOCTTY) >= 0; });
  ASSERT_TRUE(outside.ready());
  EXPECT_THAT(outside.blockers(), ::testing::HasSubstr("terminal from outside"));
  const Prepared own([] {
    const int mine = ::posix_openpt(O_RDWR | O_NOCTTY);
    char its[64];
    return ::unlockpt(mine) == 0 && ::ptsname_r(mine, its, sizeof(its)) == 0 &&
           ::open(its, O_RDWR | O_NOCTTY) >= 0;
  });
  ASSERT_TRUE(own.ready());
  EXPECT_EQ(own.blockers(), "");
}

TEST(Obstacles, SocketsThatStayWhereTheyAreBlock) {
  const Prepared vsock([] { return ::socket(AF_VSOCK, SOCK_STREAM, 0) >= 0; });
  if (!vsock.ready()) GTEST_SKIP() << "no vsock here";
  EXPECT_THAT(vsock.blockers(), ::testing::HasSubstr("address family 40"));
}

TEST(Obstacles, SessionOfSomebodyElseBlocks) {
  const Prepared within([] { return true; }, false);
  EXPECT_THAT(within.blockers(), ::testing::HasSubstr("session of a process outside"));
}

TEST(Obstacles, TracedProcessBlocks) {
  const Prepared traced([] { return true; });
  if (::ptrace(PTRACE_SEIZE, traced.pid(), nullptr, nullptr) != 0) {
    GTEST_SKIP() << "no right to trace";
  }
  EXPECT_THAT(traced.blockers(), ::testing::HasSubstr("is traced by"));
}

TEST(Obstacles, DeletedFileAndLockedMemoryAreToldButDoNotBlock) {
  const Prepared holds([] {
    char name[] = "/tmp/migrate-obstacle-XXXXXX";
    const int file = ::mkstemp(name);
    ::unlink(name);
    void* locked =
        ::mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // Not mlock(), which the address sanitizer makes do nothing.
    return file >= 0 && ::syscall(SYS_mlock, locked, 65536) == 0;
  });
  ASSERT_TRUE(holds.ready());
  EXPECT_EQ(holds.blockers(), "");
  ContainerSourceOptions options;
  options.root = holds.pid();
  std::string all;
  for (const ContainerFinding& finding : find_obstacles(options)) all += finding.what + "\n";
  EXPECT_THAT(all, ::testing::HasSubstr("(deleted)"));
  EXPECT_THAT(all, ::testing::HasSubstr("locked memory"));
}

TEST(Obstacles, MemorySharedByAForkIsToldOf) {
  const Prepared parent([] {
    constexpr std::size_t kBytes = std::size_t{48} << 20;
    void* memory =
        ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    std::memset(memory, 1, kBytes);
    const pid_t child = ::fork();
    if (child != 0) return child > 0;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  });
  ASSERT_TRUE(parent.ready());
  EXPECT_EQ(parent.blockers(), "");
  ContainerSourceOptions options;
  options.root = parent.pid();
  std::string all;
  for (const ContainerFinding& finding : find_obstacles(options)) all += finding.what + "\n";
  EXPECT_THAT(all, ::testing::HasSubstr("since they forked"));
}

TEST(ProcessStat, NameMayHaveAnythingInIt) {
  const auto parsed = parse_process_stat(
      "42 (a) b) S 17 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 10 20 30 40 50 140 60");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->pid, 42);
  EXPECT_EQ(parsed->parent, 17);
  EXPECT_EQ(parsed->start_time, 987654U);
  EXPECT_EQ(parsed->stack, 140U);
  EXPECT_FALSE(parsed->zombie);
  for (const char* bad : {"", "42", "42 (x", "42 (x) S", "x (x) S 1", "42 (x) S 17 1 1 0"}) {
    EXPECT_FALSE(parse_process_stat(bad)) << bad;
  }
}

TEST(ProcessFacts, NumbersAreThoseOfTheInnermostNamespace) {
  const ProcessFacts facts = parse_process_facts(
      "Name:\tx\nTracerPid:\t7\nUid:\t1\t2\t3\t4\nNSpid:\t400\t5\nNSsid:\t300\t1\n"
      "VmLck:\t      64 kB\nRssShmem:\t 12 kB\nHugetlbPages:\t 2048 kB\n");
  EXPECT_EQ(facts.pids, (std::vector<pid_t>{400, 5}));
  EXPECT_EQ(facts.sessions, (std::vector<pid_t>{300, 1}));
  EXPECT_EQ(facts.tracer, 7);
  EXPECT_EQ(facts.uids[3], 4U);
  EXPECT_EQ(facts.locked_kb, 64U);
  EXPECT_EQ(facts.shared_kb, 12U);
  EXPECT_EQ(facts.hugetlb_kb, 2048U);
}

TEST(LockedAreas, AreThoseWithTheFlag) {
  const auto locked = locked_areas_of(
      "00001000-00003000 rw-p 00000000 00:00 0 \nSize: 8 kB\nVmFlags: rd wr mr mw me ac lo \n"
      "00004000-00005000 rw-p 00000000 00:00 0    [heap]\nVmFlags: rd wr mr\n"
      "00006000-00007000 rw-p 00000000 00:00 0 \nAnonHugePages: 0 kB\nVmFlags: lo");
  EXPECT_EQ(locked, (std::vector<AddressRange>{{0x1000, 0x3000}, {0x6000, 0x7000}}));
}

}  // namespace
}  // namespace migrate::containers
