#include "transport/readiness.hpp"

#include <poll.h>

#include <algorithm>
#include <ctime>

#include "migrate/clock.hpp"

namespace migrate {
namespace {

using std::chrono::nanoseconds;
using std::chrono::seconds;

// Longer waits are cut into pieces of this length: no time_t overflows.
constexpr std::chrono::hours kPieceMax{1};

timespec to_timespec(nanoseconds time) {
  const auto whole = std::chrono::floor<seconds>(time);
  timespec spec{};
  spec.tv_sec = static_cast<time_t>(whole.count());
  spec.tv_nsec = static_cast<long>((time - whole).count());
  return spec;
}

}  // namespace

SteadyDeadline deadline_after(nanoseconds timeout) {
  const auto now = system_clock().now();
  return timeout < SteadyDeadline::max() - now ? now + timeout : SteadyDeadline::max();
}

Result<Readiness> wait_until_ready(int fd, short events, const EventFd& interrupt,
                                   SteadyDeadline deadline) {
  pollfd waiting[] = {{interrupt.fd(), POLLIN, 0}, {fd, events, 0}};
  while (true) {
    const auto left = std::max<nanoseconds>(deadline - system_clock().now(), nanoseconds(0));
    const timespec piece = to_timespec(std::min<nanoseconds>(left, kPieceMax));
    const int count = ::ppoll(waiting, 2, &piece, nullptr);
    if (count < 0 && errno != EINTR) {
      return make_errno_error(ErrorCode::kIo, errno, "cannot wait for a socket");
    }
    if (count > 0) return waiting[0].revents != 0 ? Readiness::kInterrupted : Readiness::kReady;
    if (count == 0 && left <= kPieceMax) return Readiness::kTimedOut;
  }
}

}  // namespace migrate
