#include "transport/transfer_ring.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>

#include "migrate/clock.hpp"

namespace migrate {
namespace {

using std::chrono::nanoseconds;

// A transfer, its cancellation and the poll of the interrupt.
constexpr unsigned kEntries = 4;
// Longer waits are cut into pieces of this length.
constexpr std::chrono::hours kPieceMax{1};

enum : std::uint64_t { kTransfer = 1, kCancellation = 2, kInterrupt = 3 };

// With waits that have a timeout come, by age, all else that is used (Linux 5.11): requests that
// outlive their submission's data, and polling in place of threads that block.
constexpr unsigned kFeatures =
    IORING_FEAT_EXT_ARG | IORING_FEAT_FAST_POLL | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_NODROP;

// From what new kernels do best (completions run when the thread that waits asks for them, Linux
// 6.1) to what old ones know.
constexpr std::array<unsigned, 4> kSetups = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_COOP_TASKRUN,
    0,
};

/// The kernel gives numbers of threads away again; these are never.
std::uint64_t this_thread() {
  static std::atomic<std::uint64_t> next{1};
  thread_local const std::uint64_t number = next.fetch_add(1, std::memory_order_relaxed);
  return number;
}

/// 0, or an errno.
int set_up(io_uring& ring) {
  int failure = -EINVAL;
  for (const unsigned flags : kSetups) {
    failure = ::io_uring_queue_init(kEntries, &ring, flags);
    if (failure != -EINVAL) break;
  }
  if (failure != 0) return -failure;
  if ((ring.features & kFeatures) == kFeatures) return 0;
  ::io_uring_queue_exit(&ring);
  return EOPNOTSUPP;
}

Error no_uring(int sys_errno) {
  const char* why = "cannot set an io_uring up";
  const char* remedy = "choose `auto` or `poll` for io";
  switch (sys_errno) {
    case ENOSYS:
      why = "this kernel has no io_uring, or a sandbox hides it";
      break;
    case EPERM:
    case EACCES:
      why = "this process may not use io_uring";
      remedy =
          "choose `auto` or `poll` for io, or allow it: sysctl kernel.io_uring_disabled and the "
          "sandbox's filter of system calls (seccomp)";
      break;
    case EOPNOTSUPP:
      why = "this kernel's io_uring is too old; Linux 5.11 is needed";
      break;
    case ENOMEM:
      why = "there is no memory for an io_uring, or no locked memory left";
      remedy = "choose `auto` or `poll` for io, or raise the limit of locked memory (ulimit -l)";
      break;
    case EMFILE:
    case ENFILE:
      why = "no descriptor is left for an io_uring";
      remedy = "raise the limit of open files (ulimit -n)";
      break;
    default:
      break;
  }
  return make_errno_error(ErrorCode::kUnsupported, sys_errno, why).advise(remedy);
}

}  // namespace

Status check_uring() {
  io_uring ring{};
  if (const int failure = set_up(ring); failure != 0) return no_uring(failure);
  ::io_uring_queue_exit(&ring);
  return {};
}

TransferRing::TransferRing(const EventFd& interrupt)
    : thread_(this_thread()), interrupt_(interrupt) {}

Result<std::unique_ptr<TransferRing>> TransferRing::create(const EventFd& interrupt) {
  std::unique_ptr<TransferRing> made(new TransferRing(interrupt));
  if (const int failure = set_up(made->ring_); failure != 0) {
    made->ring_.ring_fd = -1;
    return no_uring(failure);
  }
  return made;
}

TransferRing::~TransferRing() {
  if (ring_.ring_fd >= 0) ::io_uring_queue_exit(&ring_);
}

bool TransferRing::is_this_threads() const { return thread_ == this_thread(); }

void TransferRing::prepare(Way way, int socket, msghdr& message) {
  if (!watching_) {
    io_uring_sqe* poll = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_poll_add(poll, interrupt_.fd(), POLLIN);
    ::io_uring_sqe_set_data64(poll, kInterrupt);
    watching_ = true;
  }
  // The last one: as long as the kernel has left an entry, it has not begun the transfer. The
  // socket is not registered with the ring, which would keep it open until the kernel comes round
  // to end the ring: the peer would learn late that it was closed.
  io_uring_sqe* transfer = ::io_uring_get_sqe(&ring_);
  if (way == Way::kSend) {
    ::io_uring_prep_sendmsg(transfer, socket, &message, MSG_NOSIGNAL);
  } else {
    ::io_uring_prep_recvmsg(transfer, socket, &message, 0);
  }
  ::io_uring_sqe_set_data64(transfer, kTransfer);
}

void TransferRing::prepare_cancel() {
  io_uring_sqe* cancel = ::io_uring_get_sqe(&ring_);
  ::io_uring_prep_cancel64(cancel, kTransfer, 0);
  ::io_uring_sqe_set_data64(cancel, kCancellation);
}

int TransferRing::enter(nanoseconds timeout) {
  const nanoseconds piece = std::clamp<nanoseconds>(timeout, nanoseconds(0), kPieceMax);
  __kernel_timespec time{};
  time.tv_sec = piece / std::chrono::seconds(1);
  time.tv_nsec = (piece % std::chrono::seconds(1)).count();
  io_uring_cqe* first = nullptr;
  const int result = ::io_uring_submit_and_wait_timeout(&ring_, &first, 1, &time, nullptr);
  switch (result) {
    case -EINTR:
    case -ETIME:
      return 0;
    default:
      return result < 0 ? -result : 0;
  }
}

void TransferRing::take_completions(Progress& progress) {
  io_uring_cqe* completion = nullptr;
  while (::io_uring_peek_cqe(&ring_, &completion) == 0) {
    switch (::io_uring_cqe_get_data64(completion)) {
      case kTransfer:
        progress.done = true;
        progress.result = completion->res;
        break;
      case kInterrupt:
        // Raised, now or before the transfer began; the next transfer watches it again.
        watching_ = false;
        progress.interrupted = true;
        break;
      default:
        break;
    }
    ::io_uring_cqe_seen(&ring_, completion);
  }
}

TransferRing::Outcome TransferRing::transfer(Way way, int socket, msghdr& message,
                                             SteadyDeadline deadline) {
  using Kind = Outcome::Kind;
  prepare(way, socket, message);
  Progress progress;
  bool cancelled = false;
  while (true) {
    // A transfer that is cancelled ends by itself, and must be waited for: the buffers are its own
    // until then.
    const nanoseconds left = cancelled ? nanoseconds(kPieceMax) : deadline - system_clock().now();
    const int failure = enter(left);
    take_completions(progress);
    if (progress.done) break;
    if (failure != 0 && failure != EAGAIN && failure != EBUSY) {
      // The kernel refuses what it has not begun; a transfer under way it lets this thread wait
      // for.
      MIGRATE_CHECK(!cancelled && ::io_uring_sq_ready(&ring_) > 0);
      return {Kind::kBroken, 0, failure};
    }
    if (!cancelled && (progress.interrupted || system_clock().now() >= deadline)) {
      prepare_cancel();
      cancelled = true;
    }
  }
  if (progress.result >= 0) return {Kind::kMoved, static_cast<std::size_t>(progress.result), 0};
  const bool ended_here = progress.result == -ECANCELED || progress.result == -EINTR;
  if (!ended_here) return {Kind::kFailed, 0, -progress.result};
  // The kernel itself cancels nothing while this thread lives.
  return {cancelled && !progress.interrupted ? Kind::kTimedOut : Kind::kInterrupted, 0, 0};
}

}  // namespace migrate
