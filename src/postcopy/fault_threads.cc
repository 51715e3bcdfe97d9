#include "postcopy/fault_threads.hpp"

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/start_thread.hpp"

namespace migrate::postcopy {
namespace {

/// So long until what could not be served is tried again: memory does not come back sooner.
constexpr int kRetryMs = 10;

Status watch(int epoll, int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return make_errno_error(ErrorCode::kIo, errno, "faults cannot be waited for");
}

}  // namespace

FaultThreads::FaultThreads(const Userfault& userfault, EventFd stop, Serve serve, Retry retry,
                           Options options)
    : userfault_(userfault),
      stop_(std::move(stop)),
      serve_(std::move(serve)),
      retry_(std::move(retry)),
      together_max_(options.together_max),
      threads_(options.threads) {}

Result<std::unique_ptr<FaultThreads>> FaultThreads::start(const Userfault& userfault, Serve serve,
                                                          Retry retry, Options options) {
  MIGRATE_ASSIGN(EventFd stop, EventFd::create());
  std::unique_ptr<FaultThreads> made(
      new FaultThreads(userfault, std::move(stop), std::move(serve), std::move(retry), options));
  MIGRATE_TRY(made->start_all());
  return made;
}

Status FaultThreads::start_all() {
  for (Thread& one : threads_) {
    one.epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!one.epoll) {
      return make_errno_error(ErrorCode::kIo, errno, "cannot create an epoll descriptor")
          .advise("raise the limit of open files (ulimit -n)");
    }
    // A fault wakes one thread, where poll() and read() would wake both.
    MIGRATE_TRY(watch(one.epoll.get(), userfault_.fd(), EPOLLIN | EPOLLEXCLUSIVE));
    MIGRATE_TRY(watch(one.epoll.get(), stop_.fd(), EPOLLIN));
    MIGRATE_TRY(
        start_thread(one.thread, "mig-fault", [this, epoll = one.epoll.get()] { run(epoll); }));
  }
  return {};
}

FaultThreads::~FaultThreads() {
  stop_.set();
  for (Thread& one : threads_) {
    if (one.thread.joinable()) one.thread.join();
  }
}

void FaultThreads::run(int epoll) {
  std::array<PageFault, 64> all_room;
  const auto room = std::span(all_room).first(std::min(all_room.size(), together_max_));
  for (;;) {
    std::array<epoll_event, 2> events;
    const int count = ::epoll_wait(epoll, events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      if (events[static_cast<std::size_t>(i)].data.fd == stop_.fd()) return;
    }
    const auto faults = userfault_.read_faults(room);
    if (faults.empty() || serve_(faults)) continue;
    pollfd stop{stop_.fd(), POLLIN, 0};
    (void)::poll(&stop, 1, kRetryMs);
    retry_(faults);
  }
}

}  // namespace migrate::postcopy
