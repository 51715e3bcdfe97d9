// GuestHost: recording which pages the guest writes. It yields to everything else that is asked of
// the guest: who wants to evacuate a host is not told to wait for a forecast.
#include <sys/epoll.h>

#include <utility>

#include "base/guarded.hpp"
#include "guest_host.hpp"

namespace migrate::tool {
namespace {

// A recording ends at the next look at its cancelling, which is never further off than one collect
// and one pause; beyond this it hangs.
constexpr std::chrono::seconds kEndMax{10};

Status watch(const Fd& epoll, int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return make_errno_error(ErrorCode::kIo, errno, "cannot watch for a recording's end");
}

/// Readable once the other end of `client` has closed it, or `end` is set.
Result<Fd> ends_of(int client, const EventFd& end) {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot watch for a recording's end")
        .advise("raise the limit of open files (ulimit -n)");
  }
  MIGRATE_TRY(watch(epoll, end.fd(), EPOLLIN));
  if (client >= 0) MIGRATE_TRY(watch(epoll, client, EPOLLRDHUP));
  return epoll;
}

}  // namespace

Result<DirtyTrace> GuestHost::record(TraceOptions options, int client) {
  MIGRATE_TRY(check(options));
  MIGRATE_ASSIGN(const Fd ends, ends_of(client, end_recording_));
  options.cancel_fd = ends.get();
  MIGRATE_ASSIGN(auto source, begin_recording());
  auto trace = guarded([&] { return record_trace(*source, options); });
  source.reset();
  const bool unwanted = finish_recording();
  if (!trace && trace.error().code == ErrorCode::kCancelled && unwanted) {
    return make_error(ErrorCode::kBusy,
                      "the recording was ended: something else was asked of the guest")
        .advise("try again when that is done (`migrate status`)");
  }
  return trace;
}

Result<std::unique_ptr<SourceGuest>> GuestHost::begin_recording() {
  MutexLock lock(mutex_);
  MIGRATE_TRY(check_here("record"));
  MIGRATE_TRY(check_whole("record"));
  const GuestState state = guest_.state();
  if (stop_wanted_ || (state != GuestState::kRunning && state != GuestState::kPaused)) {
    return make_error(ErrorCode::kBusy, "the guest ends").advise("see `migrate ps` for others");
  }
  MIGRATE_TRY(drop_tracking());
  MIGRATE_ASSIGN(auto source, guest_.make_source());
  end_recording_.clear();
  recording_unwanted_ = false;
  recorded_paused_ = state == GuestState::kPaused;
  activity_ = Activity::kRecording;
  return source;
}

/// Whether something else ended it.
bool GuestHost::finish_recording() {
  MutexLock lock(mutex_);
  activity_ = Activity::kHere;
  recorded_.notify_all();
  wake_.set();
  return recording_unwanted_ || stop_wanted_;
}

void GuestHost::end_recording() {
  const auto deadline = std::chrono::steady_clock::now() + kEndMax;
  while (activity_ == Activity::kRecording) {
    recording_unwanted_ = true;
    end_recording_.set();
    if (!recorded_.wait_until(mutex_, deadline)) break;
  }
  // Where it is recorded still, check_here() says so.
}

}  // namespace migrate::tool
