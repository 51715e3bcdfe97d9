#include "guest_links.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "guest_page.hpp"

namespace migrate::rig {
namespace {

constexpr size_t kMessageWords = 8;
constexpr size_t kMessageBytes = kMessageWords * sizeof(uint64_t);
// Under way on each channel: so many are in the kernel's queues whenever it is frozen.
constexpr uint64_t kUnderWay = 8;
constexpr long kTimerNs = 5'000'000;

void FillMessage(uint64_t (&words)[kMessageWords], uint64_t number) {
  for (size_t i = 0; i < kMessageWords; ++i) words[i] = PageSeed(number, i + 1);
}

}  // namespace

Links Links::Make() {
  Links links;
  for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    int ends[2];
    if (socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, ends) != 0) std::abort();
    links.channels_.push_back({{ends[0], ends[0]}, {ends[1], ends[1]}, false});
  }
  int up[2];
  int down[2];
  if (pipe2(up, O_NONBLOCK) != 0 || pipe2(down, O_NONBLOCK) != 0) std::abort();
  links.channels_.push_back({{up[0], down[1]}, {down[0], up[1]}, true});
  return links;
}

void Links::KeepParentEnds() {
  for (Channel& channel : channels_) {
    close(channel.child[0]);
    if (channel.is_pipe) close(channel.child[1]);
  }
}

void Links::KeepChildEnds() {
  for (Channel& channel : channels_) {
    close(channel.parent[0]);
    if (channel.is_pipe) close(channel.parent[1]);
  }
}

bool Links::Send(Channel& channel, int fd) {
  uint64_t words[kMessageWords];
  FillMessage(words, channel.sent);
  if (write(fd, words, kMessageBytes) != static_cast<ssize_t>(kMessageBytes)) return false;
  ++channel.sent;
  return true;
}

bool Links::Take(Channel& channel, int fd) {
  uint64_t words[kMessageWords];
  uint64_t wanted[kMessageWords];
  const ssize_t got = read(fd, words, kMessageBytes);
  if (got < 0) return false;
  FillMessage(wanted, channel.received);
  if (got != static_cast<ssize_t>(kMessageBytes) ||
      std::memcmp(words, wanted, kMessageBytes) != 0) {
    ++channel.errors;
    // An end of file would be read for ever.
    if (got == 0) return false;
  }
  ++channel.received;
  return true;
}

void Links::Drive() {
  for (Channel& channel : channels_) {
    while (channel.received < channel.sent && Take(channel, channel.parent[0])) {
    }
    while (channel.sent < channel.received + kUnderWay && Send(channel, channel.parent[1])) {
    }
  }
}

void Links::Answer() {
  for (Channel& channel : channels_) {
    // Half of them stay in the queue towards this end: seen by the next tick, or moved.
    for (uint64_t i = 0; i < kUnderWay / 2 && Take(channel, channel.child[0]); ++i) {
      if (!Send(channel, channel.child[1])) ++channel.errors;
    }
  }
}

uint64_t Links::messages() const {
  uint64_t least = channels_.empty() ? 0 : UINT64_MAX;
  for (const Channel& channel : channels_) least = std::min(least, channel.received);
  return least;
}

uint64_t Links::errors() const {
  uint64_t sum = 0;
  for (const Channel& channel : channels_) sum += channel.errors;
  return sum;
}

bool CheckedFile::Open(const std::string& path, size_t pages) {
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd_ < 0) return false;
  generations_.resize(pages);
  for (size_t page = 0; page < pages; ++page) WriteOne(page);
  return true;
}

void CheckedFile::WriteOne(uint64_t random) {
  const size_t page = random % pages();
  std::byte bytes[kPageBytes];
  FillPage(bytes, page, ++generations_[page]);
  const off_t at = static_cast<off_t>(page * kPageBytes);
  // What is not written is found by the check.
  [[maybe_unused]] const ssize_t written = pwrite(fd_, bytes, kPageBytes, at);
}

uint64_t CheckedFile::CountErrors() const {
  uint64_t errors = 0;
  std::byte bytes[kPageBytes];
  for (size_t page = 0; page < pages(); ++page) {
    const ssize_t got = pread(fd_, bytes, kPageBytes, static_cast<off_t>(page * kPageBytes));
    if (got != static_cast<ssize_t>(kPageBytes) || !PageIsRight(bytes, page, generations_[page])) {
      ++errors;
    }
  }
  return errors;
}

void Timers::Start() {
  const timespec period{0, kTimerNs};
  const itimerspec spec{period, period};
  descriptor_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  timerfd_settime(descriptor_, 0, &spec, nullptr);
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMIN;
  if (timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) std::abort();
  timer_settime(timer_, 0, &spec, nullptr);
  const timeval interval{0, kTimerNs / 1000};
  const itimerval real{interval, interval};
  setitimer(ITIMER_REAL, &real, nullptr);
}

void Timers::Fired(int signal_number) {
  if (signal_number == SIGALRM) ++interval_;
  if (signal_number == SIGRTMIN) ++posix_;
}

void Timers::Tick() {
  uint64_t count = 0;
  if (descriptor_ >= 0 && read(descriptor_, &count, sizeof count) == sizeof count) {
    descriptor_count_ += count;
  }
}

void ServeEcho(uint16_t port) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const int one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 128) != 0) {
    std::abort();
  }
  const int poll = epoll_create1(0);
  epoll_event event{EPOLLIN, {.fd = listener}};
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  static char bytes[65536];
  for (;;) {
    if (epoll_wait(poll, &event, 1, -1) != 1) continue;
    if (event.data.fd == listener) {
      const int fd = accept(listener, nullptr, nullptr);
      if (fd < 0) continue;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      epoll_event added{EPOLLIN, {.fd = fd}};
      epoll_ctl(poll, EPOLL_CTL_ADD, fd, &added);
      continue;
    }
    const ssize_t got = read(event.data.fd, bytes, sizeof bytes);
    for (ssize_t sent = 0; sent < got;) {
      const ssize_t more =
          send(event.data.fd, bytes + sent, static_cast<size_t>(got - sent), MSG_NOSIGNAL);
      if (more > 0) sent += more;
      if (more < 0 && errno != EINTR) break;
    }
    if (got <= 0) close(event.data.fd);
  }
}

}  // namespace migrate::rig
