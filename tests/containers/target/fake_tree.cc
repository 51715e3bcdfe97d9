#include "tests/containers/target/fake_tree.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace migrate::containers {
namespace {

constexpr int kMinuteMs = 60'000;

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  ::_exit(120);
}

int make_userfaultfd(std::uint64_t bytes) {
  const int fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                 UFFD_FEATURE_EVENT_UNMAP;
  if (fd < 0 || ::ioctl(fd, UFFDIO_API, &api) != 0) fail("userfaultfd");
  uffdio_register range{};
  range.range = {kFakeAddress, bytes};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(fd, UFFDIO_REGISTER, &range) != 0) fail("UFFDIO_REGISTER");
  return fd;
}

void send_descriptor(int socket, int fd) {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  if (::sendmsg(socket, &header, 0) < 0) fail("sendmsg");
}

struct Order {
  std::int32_t pid = 0;
  std::array<char, 80> folder{};
};

[[noreturn]] void be_process(int socket, std::uint64_t pages,
                             const std::function<int(const FakeProcess::Life&)>& live) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  void* at = ::mmap(reinterpret_cast<void*>(kFakeAddress), pages * 4096, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) fail("mmap");
  ::madvise(at, pages * 4096, MADV_NOHUGEPAGE);
  Order order;
  if (::recv(socket, &order, sizeof order, 0) != sizeof order) ::_exit(121);
  const int lazy = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s/lazy-pages.socket",
                order.folder.data());
  if (::connect(lazy, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fail("connect");
  const int fd = make_userfaultfd(pages * 4096);
  if (::send(lazy, &order.pid, sizeof order.pid, 0) < 0) fail("send");
  send_descriptor(lazy, fd);
  ::close(fd);
  const std::int32_t finished = 0x52535446;
  if (::send(lazy, &finished, sizeof finished, 0) < 0) fail("send");
  ::close(lazy);
  const FakeProcess::Life life{static_cast<std::byte*>(at), pages,
                               [socket] {
                                 char word = 0;
                                 if (::recv(socket, &word, 1, 0) != 1) ::_exit(122);
                               },
                               [socket] { (void)::send(socket, "t", 1, MSG_NOSIGNAL); }};
  const int wrong = live(life);
  ::_exit(wrong > 100 ? 100 : wrong);
}

}  // namespace

std::uint64_t word_of(std::uint64_t page, std::uint64_t word) {
  if (page % 7 == 3) return 0;
  return (page + 1) * 0x9E37'79B9'7F4A'7C15u + word;
}

bool is_right(const void* at, std::uint64_t page) {
  std::array<std::uint64_t, 512> words{};
  std::memcpy(words.data(), at, 4096);
  for (std::uint64_t i = 0; i < words.size(); ++i) {
    if (words[i] != word_of(page, i)) return false;
  }
  return true;
}

bool is_zero(const void* at) {
  std::array<std::uint64_t, 512> words{};
  std::memcpy(words.data(), at, 4096);
  for (const std::uint64_t word : words) {
    if (word != 0) return false;
  }
  return true;
}

void stage(std::span<std::byte> memory) {
  for (std::uint64_t page = 0; page < memory.size() / 4096; ++page) {
    if (page % 7 == 3) continue;
    for (std::uint64_t i = 0; i < 512; ++i) {
      const std::uint64_t word = word_of(page, i);
      std::memcpy(memory.data() + page * 4096 + i * 8, &word, 8);
    }
  }
}

Region fake_region(std::uint64_t pages) {
  return {{0, 1, 0}, {{kFakeAddress / kPageSize}, pages}, Backing::kAnonymous};
}

FakeProcess::FakeProcess(std::uint64_t pages, std::function<int(const Life&)> live) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) fail("socketpair");
  pid_ = ::fork();
  if (pid_ == 0) {
    ::close(ends[0]);
    be_process(ends[1], pages, live);
  }
  ::close(ends[1]);
  socket_ = Fd(ends[0]);
}

FakeProcess::~FakeProcess() { kill(); }

void FakeProcess::connect(const std::string& folder, pid_t pid) {
  Order order;
  order.pid = pid;
  std::snprintf(order.folder.data(), order.folder.size(), "%s", folder.c_str());
  (void)::send(socket_.get(), &order, sizeof order, MSG_NOSIGNAL);
}

void FakeProcess::go() { (void)::send(socket_.get(), "g", 1, MSG_NOSIGNAL); }

bool FakeProcess::told() {
  pollfd fd{socket_.get(), POLLIN, 0};
  char word = 0;
  return ::poll(&fd, 1, kMinuteMs) == 1 && ::recv(socket_.get(), &word, 1, 0) == 1;
}

int FakeProcess::end() {
  if (pid_ <= 0) return -1;
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0));
  pollfd fd{pidfd, POLLIN, 0};
  const bool ended = ::poll(&fd, 1, 2 * kMinuteMs) == 1;
  ::close(pidfd);
  if (!ended) ::kill(pid_, SIGKILL);
  int status = 0;
  ::waitpid(std::exchange(pid_, 0), &status, 0);
  return ended && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void FakeProcess::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(std::exchange(pid_, 0), nullptr, 0);
}

}  // namespace migrate::containers
